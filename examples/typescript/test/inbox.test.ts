import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Confirmation } from '../src/batching/contract';
import { Inbox } from '../src/batching/inbox';

const written: Confirmation = { request_id: 'r', outcome: 'written' };
const other: Confirmation = { request_id: 'other', outcome: 'expired' };

test('two writes of one request both get its confirmation, and no other', () => {
  const inbox = new Inbox();
  const [first, second, waiting] = [inbox.expect('r'), inbox.expect('r'), inbox.expect('x')];
  inbox.receive([other, written]);
  assert.deepEqual([first.confirmation, second.confirmation, waiting.confirmation], [written, written, undefined]);
});

test('the first confirmation counts, and one that nobody waits for is dropped', () => {
  const inbox = new Inbox();
  const arrival = inbox.expect('r');
  inbox.receive([written]);
  inbox.receive([{ request_id: 'r', outcome: 'duplicate' }]);
  assert.equal(arrival.confirmation, written);
  inbox.forget(arrival);
  inbox.receive([written]);
  assert.equal(inbox.expect('r').confirmation, undefined);
});
