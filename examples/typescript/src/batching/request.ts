/** From the records of a caller to a request as it travels. */

import type { WireRecord, WireRequest } from './contract';
import { writeRejected } from './errors';
import { type ColumnValue, encodeValues, InvalidValue } from './values';

/** What a caller asks to write: a record as it travels, but for its values. */
export interface WriteRecord extends Omit<WireRecord, 'values'> {
  readonly values: { readonly [column: string]: ColumnValue };
}

/** Options of one write. */
export interface WriteOptions {
  /** Requests with one key are applied in the order in which they arrive. Without one there is no order. */
  readonly key?: string;
  /**
   * The idempotency key: a request whose id was written before is not applied again. By default a fresh one, which
   * retries and replays of a workflow keep. Give one of your own if the caller itself may be run again.
   */
  readonly requestId?: string;
  /** How long to wait for the confirmation, in milliseconds. By default the timeout of the writer. */
  readonly timeout?: number;
  /** The span that the batch is to lead to, as W3C Trace Context has it. */
  readonly traceparent?: string;
}

/**
 * The request as it travels.
 *
 * @throws {WriteRejected} JSON would change one of its values. Nothing is submitted.
 */
export function encodeRequest(
  batcher: string,
  records: readonly WriteRecord[],
  request_id: string,
  { key = '', traceparent }: WriteOptions,
): WireRequest {
  try {
    const encoded = records.map((record) => ({ ...record, values: encodeValues(record.values) }));
    const traced = traceparent === undefined ? {} : { traceparent };
    return { batcher, request_id, key, records: encoded, safe_integers: true, ...traced };
  } catch (error) {
    if (!(error instanceof InvalidValue)) throw error;
    throw writeRejected({ request_id, outcome: 'rejected', code: 'invalid', reason: error.message });
  }
}

/** What a write is about, for the Web UI: its tables and the number of its records, nothing of their values. */
export function summaryOf(request: WireRequest): string {
  const tables = [...new Set(request.records.map((record) => record.table))];
  const count = request.records.length;
  return `${count} record${count === 1 ? '' : 's'} to ${tables.join(', ')}`.slice(0, 200);
}
