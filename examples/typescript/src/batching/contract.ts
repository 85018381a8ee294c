/**
 * The messages between a caller and a batcher, as they travel. `docs/reference/wire-contract.md` describes them.
 *
 * Field names are those of the wire, so that what a workflow holds is what Temporal's Web UI shows.
 */

/** What JSON can hold. */
export type JsonValue =
  | null
  | boolean
  | number
  | string
  | readonly JsonValue[]
  | { readonly [name: string]: JsonValue };

/** One row to write, as it travels. */
export interface WireRecord {
  readonly table: string;
  readonly values: { readonly [column: string]: JsonValue };
  /** Columns that get the value of a column of an earlier record of the request: `{ order_id: [0, 'id'] }`. */
  readonly references?: { readonly [column: string]: readonly [record: number, column: string] };
  /** Columns whose values come back. */
  readonly returning?: readonly string[];
  readonly operation?: 'insert' | 'update' | 'delete';
}

/** One write request: its records commit together or not at all. */
export interface WireRequest {
  readonly batcher: string;
  readonly request_id: string;
  readonly key: string;
  readonly records: readonly WireRecord[];
  /** Whole numbers beyond 2^53 come back as strings of digits, because `JSON.parse` would round them. */
  readonly safe_integers: true;
  /** The caller's span, as W3C Trace Context has it: its batch leads to it. */
  readonly traceparent?: string;
}

/** The address of a caller that waits for the signal `write_confirmation`. */
export interface ReplyTo {
  readonly workflow_id: string;
  readonly from_run_id: string;
}

/** A request on its way by signal. */
export interface SignalledRequest extends WireRequest {
  /** Seconds since the epoch. */
  readonly expires_at: number;
  readonly reply_to: ReplyTo;
}

/** What names a request that its caller takes back. */
export interface Withdrawal {
  readonly batcher: string;
  readonly request_id: string;
  readonly key: string;
}

/** The columns of one row that its request asked for. */
export type ReturnedRow = { readonly [column: string]: JsonValue };

/** What every confirmation says. */
interface Settled {
  readonly request_id: string;
  /** The batch, its requests and its shard. Missing if the request never got into a batch. */
  readonly batch_id?: string;
  readonly batch_size?: number;
  readonly shard?: number;
  /** When, in ISO 8601 with an offset. */
  readonly settled_at?: string;
}

/** The request is committed: now, or by an earlier submission under the same id (`duplicate`). */
export interface Written extends Settled {
  readonly outcome: 'written' | 'duplicate';
  /** For each record: the columns that it asked for; `null` where there is no row to show. */
  readonly returned?: readonly (ReturnedRow | null)[];
}

/** Why a request was rejected. A later version may have more. */
export type RejectCode =
  | 'invalid'
  | 'too_large'
  | 'overloaded'
  | 'id_reused'
  | 'withdrawn'
  | 'content_gone'
  | 'unknown_table'
  | 'unknown_column'
  | 'type'
  | 'constraint'
  | 'missing_row'
  | 'database';

/** The request is not written. */
export interface Rejected extends Settled {
  readonly outcome: 'rejected';
  readonly code: RejectCode;
  readonly reason: string;
}

/** Its deadline passed first. It is not and will not be written. */
export interface Expired extends Settled {
  readonly outcome: 'expired';
}

/** What became of a request. */
export type Confirmation = Written | Rejected | Expired;

/** The batcher's activities, by the names that its workers have registered. */
export interface BatcherActivities {
  batch_write(request: WireRequest): Promise<Written>;
  batch_withdraw(withdrawal: Withdrawal): Promise<void>;
}

export const SIGNAL_ADD = 'add_write_request';
export const SIGNAL_WITHDRAW = 'withdraw_write_request';
export const SIGNAL_CONFIRMATION = 'write_confirmation';
