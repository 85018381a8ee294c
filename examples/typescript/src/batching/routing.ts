/** From a key to a shard to a workflow id. `docs/reference/routing-vectors.json` holds it, in every language. */

import { sha256 } from './sha256';

/** The batcher that is meant if none is named. */
export const DEFAULT_BATCHER = 'main';

/** The shard that serves a key, from 0 to `shards - 1`. A request without a key is routed by its id. */
export function shardOf(key: string, shards: number): number {
  const digest = new DataView(sha256(new TextEncoder().encode(key)).buffer);
  // The first 8 bytes as one number would be beyond 2^53: its halves are not, nor is what is left of the first.
  return ((digest.getUint32(0) % shards) * 2 ** 32 + digest.getUint32(4)) % shards;
}

/** The workflow id of a shard. */
export function shardWorkflowId(batcher: string, shard: number): string {
  return `batcher-${batcher}-${shard}`;
}

/** The task queue of a batcher's workers, unless they were given another. */
export function defaultTaskQueue(batcher: string): string {
  return batcher === DEFAULT_BATCHER ? 'batcher-queue' : `batcher-queue-${batcher}`;
}
