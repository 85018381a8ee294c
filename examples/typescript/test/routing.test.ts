import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { defaultTaskQueue, shardOf, shardWorkflowId } from '../src/batching/routing';
import { sha256 } from '../src/batching/sha256';

interface Vector {
  readonly key: string;
  readonly shards: number;
  readonly shard: number;
}

const { vectors } = JSON.parse(readFileSync('../../docs/reference/routing-vectors.json', 'utf8')) as {
  readonly vectors: readonly Vector[];
};

test('a key has the shard that it has in every language', () => {
  assert.ok(vectors.length > 10);
  assert.deepEqual(
    vectors.map(({ key, shards }) => shardOf(key, shards)),
    vectors.map(({ shard }) => shard),
  );
});

test('the digest is that of SHA-256, at every length around a block', () => {
  for (let length = 0; length <= 200; length++) {
    const message = randomBytes(length);
    assert.deepEqual(Buffer.from(sha256(message)), createHash('sha256').update(message).digest(), `${length} bytes`);
  }
});

test('shards and task queues have the names that the batcher gives them', () => {
  assert.equal(shardWorkflowId('main', 3), 'batcher-main-3');
  assert.equal(defaultTaskQueue('main'), 'batcher-queue');
  assert.equal(defaultTaskQueue('payments'), 'batcher-queue-payments');
});
