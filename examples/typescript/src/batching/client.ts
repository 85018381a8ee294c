/** How a program writes through a batcher: the same activity, without a workflow around it. */

import { randomUUID } from 'node:crypto';
import { ActivityExecutionFailedError, type Client } from '@temporalio/client';
import type { BatcherActivities, Written } from './contract';
import { writeError } from './errors';
import { encodeRequest, summaryOf, type WriteOptions, type WriteRecord } from './request';
import { DEFAULT_BATCHER, defaultTaskQueue } from './routing';
import { activityTimes, CONFIRMATION_TIMEOUT } from './times';

/** Writes through a batcher, from a program. Needs a Temporal server with standalone activities. */
export class BatchClient {
  constructor(
    private readonly client: Client,
    private readonly batcher: string = DEFAULT_BATCHER,
    private readonly taskQueue: string = defaultTaskQueue(batcher),
  ) {}

  /**
   * Writes records that commit together or not at all, and waits until they are committed. Give a `requestId` of your
   * own if the program may be run again.
   *
   * @throws {WriteError} What went wrong, and whether it may be written.
   */
  async writeAll(records: readonly WriteRecord[], options: WriteOptions = {}): Promise<Written> {
    const request = encodeRequest(this.batcher, records, options.requestId ?? randomUUID(), options);
    try {
      return await this.client.activity.typed<BatcherActivities>().execute('batch_write', {
        id: `batch_write-${randomUUID()}`,
        taskQueue: this.taskQueue,
        args: [request],
        summary: summaryOf(request),
        ...activityTimes(options.timeout ?? CONFIRMATION_TIMEOUT),
      });
    } catch (error) {
      throw error instanceof ActivityExecutionFailedError ? writeError(request.request_id, error.cause) : error;
    }
  }
}
