/** How long a write waits, and how its activity is repeated: the same from a workflow and from a program. */

import type { RetryPolicy } from '@temporalio/common';

/** How long a write waits for its confirmation, in milliseconds, unless it says otherwise. */
export const CONFIRMATION_TIMEOUT = 120_000;

/** How long one attempt may go unanswered, in milliseconds. Longer than a batcher's linger, 20 s by default. */
const ATTEMPT_TIMEOUT = 30_000;

/** Options of the activity `batch_write`, in milliseconds. */
export interface ActivityTimes {
  readonly scheduleToCloseTimeout: number;
  readonly scheduleToStartTimeout: number;
  readonly startToCloseTimeout: number;
  readonly retry: RetryPolicy;
}

/**
 * When a request must be written that waits this long from now on: a moment of `Date.now()`. A little before its caller
 * gives up, who so receives `WriteExpired`, which is certain, and not a timeout, which says nothing.
 */
export function deadlineAfter(timeout: number): number {
  return Date.now() + timeout - Math.min(5_000, timeout / 5);
}

/** The options of a write that waits this long. Repeating an attempt is safe: the request id makes it so. */
export function activityTimes(timeout: number): ActivityTimes {
  return {
    scheduleToCloseTimeout: timeout,
    scheduleToStartTimeout: timeout,
    startToCloseTimeout: Math.min(timeout, ATTEMPT_TIMEOUT),
    retry: { initialInterval: 1_000, maximumInterval: 10_000 },
  };
}
