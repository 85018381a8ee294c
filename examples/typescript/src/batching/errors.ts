/**
 * Why a write failed, as typed failures. Each is an `ApplicationFailure`, the only class that fails a workflow, and the
 * SDK asks not to extend it: so they are told apart by `type`, which also survives the way to the workflow's own caller.
 *
 * ```ts
 * try {
 *   await batcher.write('entries', { account, amount });
 * } catch (error) {
 *   if (isWriteError(error) && error.type === 'WriteRejected') return error.details[0].reason;
 *   throw error;
 * }
 * ```
 */

import { ApplicationFailure, TimeoutFailure } from '@temporalio/common';
import type { Expired, Rejected } from './contract';

/** Which request it is about: the ledger knows it by this id. */
export interface Unconfirmed {
  readonly request_id: string;
}

interface WriteFailure<Type extends string, Detail extends Unconfirmed> extends ApplicationFailure {
  readonly type: Type;
  readonly details: [Detail];
}

/** Refused, by the batcher or by the database. It is not written. */
export type WriteRejected = WriteFailure<'WriteRejected', Rejected>;

/** Its deadline passed first. It is not and will not be written. */
export type WriteExpired = WriteFailure<'WriteExpired', Expired>;

/** No batcher accepted it. It is not and will not be written. */
export type WriteNotSubmitted = WriteFailure<'WriteNotSubmitted', Unconfirmed>;

/** No confirmation came in time. It may or may not be written. */
export type WriteNotConfirmed = WriteFailure<'WriteNotConfirmed', Unconfirmed>;

/** Why a write failed. Its `type` decides what `details[0]` is. */
export type WriteError = WriteRejected | WriteExpired | WriteNotSubmitted | WriteNotConfirmed;

const TYPES: ReadonlySet<unknown> = new Set<WriteError['type']>([
  'WriteRejected',
  'WriteExpired',
  'WriteNotSubmitted',
  'WriteNotConfirmed',
]);

/** Whether a write failed with this error: as thrown here, or as the `cause` of a workflow that failed with it. */
export function isWriteError(error: unknown): error is WriteError {
  return error instanceof ApplicationFailure && TYPES.has(error.type) && isObject(error.details?.[0]);
}

export function writeRejected(rejected: Rejected): WriteRejected {
  return failure('WriteRejected', `write ${rejected.request_id}: rejected: ${rejected.reason}`, rejected);
}

export function writeExpired(expired: Expired): WriteExpired {
  const message = 'its deadline passed before it could be written; it is not and will not be written';
  return failure('WriteExpired', `write ${expired.request_id}: ${message}`, expired);
}

export function writeNotSubmitted(request_id: string, why: string): WriteNotSubmitted {
  return failure('WriteNotSubmitted', `write ${request_id}: ${why}`, { request_id });
}

export function writeNotConfirmed(request_id: string, why: string): WriteNotConfirmed {
  return failure('WriteNotConfirmed', `write ${request_id}: no confirmation: ${why}`, { request_id });
}

/**
 * The error for a write whose activity failed.
 *
 * Only what is certain is called rejected, expired or not submitted: a caller may act on those as on a fact. Everything
 * else is not confirmed.
 */
export function writeError(request_id: string, cause: unknown): WriteError {
  if (cause instanceof ApplicationFailure) {
    const detail: unknown = cause.details?.[0];
    if (cause.type === 'WriteRejected') {
      const why = { code: 'database', reason: cause.message } as const;
      return writeRejected({ ...why, ...(isObject(detail) ? detail : {}), request_id, outcome: 'rejected' });
    }
    if (cause.type === 'WriteExpired') {
      return writeExpired({ ...(isObject(detail) ? detail : {}), request_id, outcome: 'expired' });
    }
    // `true` says that no earlier attempt was accepted either.
    if ((cause.type === 'BatcherBusy' || cause.type === 'WrongBatcher') && detail === true) {
      return writeNotSubmitted(request_id, `not accepted: ${cause.message}`);
    }
  }
  // Only if no worker ever took it: a retry that waited in vain has an earlier attempt as its cause.
  if (cause instanceof TimeoutFailure && cause.timeoutType === 'SCHEDULE_TO_START' && !cause.failure?.cause) {
    return writeNotSubmitted(request_id, 'no worker took it in time');
  }
  return writeNotConfirmed(request_id, cause instanceof Error ? cause.message : String(cause));
}

function failure<Type extends string, Detail extends Unconfirmed>(
  type: Type,
  message: string,
  detail: Detail,
): WriteFailure<Type, Detail> {
  return ApplicationFailure.nonRetryable(message, type, detail) as WriteFailure<Type, Detail>;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}
