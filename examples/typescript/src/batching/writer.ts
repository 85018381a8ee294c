/** How a workflow writes through a batcher. */

import { uuid4 } from '@temporalio/workflow';
import { writeByActivity } from './by-activity';
import { writeByNexus } from './by-nexus';
import { writeBySignal } from './by-signal';
import type { Written } from './contract';
import { encodeRequest, type WriteOptions, type WriteRecord } from './request';
import { DEFAULT_BATCHER, defaultTaskQueue, shardOf, shardWorkflowId } from './routing';
import { CONFIRMATION_TIMEOUT } from './times';

/** Options of a {@link BatchWriter}, whatever the way in. */
interface CommonOptions {
  /** The batcher's name; by default `main`. */
  readonly batcher?: string;
  /** How long a write waits for its confirmation, in milliseconds; by default two minutes. */
  readonly timeout?: number;
}

/** By the activity of the batcher's workers: the default, which costs least. */
interface ByActivity extends CommonOptions {
  readonly via?: 'activity';
  /** The task queue of the batcher's workers; by default the one of its name. */
  readonly taskQueue?: string;
}

/** By a signal to the batcher's workflow: no activity worker is needed for the submission. */
interface BySignal extends CommonOptions {
  readonly via: 'signal';
  /** How many shards the batcher has, by default one: the writer itself finds the one of a key. */
  readonly shards?: number;
}

/** By a Nexus operation: from another namespace than the batcher's. Experimental. */
interface ByNexus extends CommonOptions {
  readonly via: 'nexus';
  /** The endpoint that leads to the task queue of the batcher's workers. */
  readonly endpoint: string;
}

/** Options of a {@link BatchWriter}: which batcher, and which way in. */
export type WriterOptions = ByActivity | BySignal | ByNexus;

/**
 * Writes through a batcher, from inside a workflow.
 *
 * ```ts
 * const batcher = new BatchWriter();
 * const written = await batcher.write('entries', { account, amount: '9.50' }, { key: account, returning: ['id'] });
 * ```
 */
export class BatchWriter {
  private readonly batcher: string;
  private readonly timeout: number;

  constructor(private readonly options: WriterOptions = {}) {
    this.batcher = options.batcher ?? DEFAULT_BATCHER;
    this.timeout = options.timeout ?? CONFIRMATION_TIMEOUT;
  }

  /**
   * Writes one record, and waits until it is committed.
   *
   * @throws {WriteError} What went wrong, and whether it may be written.
   */
  async write(
    table: string,
    values: WriteRecord['values'],
    options: WriteOptions & Omit<WriteRecord, 'table' | 'values'> = {},
  ): Promise<Written> {
    const { key, requestId, timeout, traceparent, ...record } = options;
    return this.writeAll([{ ...record, table, values }], options);
  }

  /**
   * Writes records that commit together or not at all, and waits until they are committed.
   *
   * @throws {WriteError} What went wrong, and whether it may be written.
   */
  async writeAll(records: readonly WriteRecord[], options: WriteOptions = {}): Promise<Written> {
    const request = encodeRequest(this.batcher, records, options.requestId ?? uuid4(), options);
    const timeout = options.timeout ?? this.timeout;
    const way = this.options;
    switch (way.via) {
      case 'signal': {
        const shard = shardOf(request.key || request.request_id, way.shards ?? 1);
        return writeBySignal(request, shardWorkflowId(this.batcher, shard), timeout);
      }
      case 'nexus':
        return writeByNexus(request, way.endpoint, timeout);
      default:
        return writeByActivity(request, way.taskQueue ?? defaultTaskQueue(this.batcher), timeout);
    }
  }
}
