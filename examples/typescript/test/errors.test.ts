import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ApplicationFailure, type TimeoutType, TimeoutFailure } from '@temporalio/common';
import { isWriteError, writeError } from '../src/batching/errors';

function timeout(type: TimeoutType, earlier?: string): TimeoutFailure {
  const failure = new TimeoutFailure('activity timed out', undefined, type);
  failure.failure = earlier === undefined ? {} : { cause: { message: earlier } };
  return failure;
}

function failed(type: string, ...details: unknown[]): ApplicationFailure {
  return ApplicationFailure.nonRetryable('the reason', type, ...details);
}

const rejected = { request_id: 'r', outcome: 'rejected', code: 'constraint', reason: 'UNIQUE' };

/** Only what is certain may be called not written: a caller acts on it as on a fact. */
const cases: readonly [string, unknown, string, unknown][] = [
  ['a rejection', failed('WriteRejected', rejected), 'WriteRejected', rejected],
  [
    'a rejection without its confirmation',
    failed('WriteRejected'),
    'WriteRejected',
    { request_id: 'r', outcome: 'rejected', code: 'database', reason: 'the reason' },
  ],
  ['an expiry', failed('WriteExpired'), 'WriteExpired', { request_id: 'r', outcome: 'expired' }],
  ['busy until it was too late', failed('BatcherBusy', true), 'WriteNotSubmitted', { request_id: 'r' }],
  ['busy, after an attempt that may have been accepted', failed('BatcherBusy', false), 'WriteNotConfirmed', { request_id: 'r' }],
  ['another batcher on the queue', failed('WrongBatcher', true), 'WriteNotSubmitted', { request_id: 'r' }],
  ['no worker', timeout('SCHEDULE_TO_START'), 'WriteNotSubmitted', { request_id: 'r' }],
  ['no worker for the second attempt', timeout('SCHEDULE_TO_START', 'lost'), 'WriteNotConfirmed', { request_id: 'r' }],
  ['no answer', timeout('SCHEDULE_TO_CLOSE'), 'WriteNotConfirmed', { request_id: 'r' }],
  ['anything else', new Error('the connection is gone'), 'WriteNotConfirmed', { request_id: 'r' }],
];

for (const [what, cause, type, detail] of cases) {
  test(`${what} is ${type}`, () => {
    const error = writeError('r', cause);
    assert.ok(isWriteError(error));
    assert.equal(error.type, type);
    assert.deepEqual(error.details[0], detail);
    assert.equal(error.nonRetryable, true);
  });
}

test('another failure is no write error', () => {
  assert.equal(isWriteError(failed('WriteRejected')), false, 'nothing says which request');
  assert.equal(isWriteError(failed('OutOfStock', { request_id: 'r' })), false);
  assert.equal(isWriteError(new Error('WriteRejected')), false);
});
