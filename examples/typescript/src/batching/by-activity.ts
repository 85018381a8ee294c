/** A write by the activity `batch_write` of the batcher's workers: the way that costs least. */

import { ActivityFailure, CancellationScope, isCancellation, proxyActivities } from '@temporalio/workflow';
import type { BatcherActivities, WireRequest, Written } from './contract';
import { writeError } from './errors';
import { summaryOf } from './request';
import { activityTimes } from './times';

/**
 * Writes, and waits for the confirmation. A cancellation withdraws the request first: what is still pending must not be
 * written for a caller that has gone.
 *
 * @throws {WriteError} What went wrong, and whether it may be written.
 */
export async function writeByActivity(request: WireRequest, taskQueue: string, timeout: number): Promise<Written> {
  const options = { taskQueue, summary: summaryOf(request), ...activityTimes(timeout) };
  const { batch_write } = proxyActivities<BatcherActivities>(options);
  try {
    return await batch_write(request);
  } catch (error) {
    if (isCancellation(error)) {
      await CancellationScope.nonCancellable(() => withdraw(request, taskQueue));
      throw error;
    }
    throw error instanceof ActivityFailure ? writeError(request.request_id, error.cause) : error;
  }
}

async function withdraw({ batcher, request_id, key }: WireRequest, taskQueue: string): Promise<void> {
  const { batch_withdraw } = proxyActivities<BatcherActivities>({
    taskQueue,
    scheduleToCloseTimeout: '30 seconds',
    startToCloseTimeout: '10 seconds',
  });
  try {
    await batch_withdraw({ batcher, request_id, key });
  } catch (error) {
    if (!(error instanceof ActivityFailure)) throw error; // the caller ends as cancelled, withdrawn or not
  }
}
