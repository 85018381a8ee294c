/** A write by signal, confirmed by signal: for callers whose batcher has no activity worker that they can reach. */

import {
  CancellationScope,
  condition,
  type ExternalWorkflowHandle,
  getExternalWorkflowHandle,
  isCancellation,
  sleep,
  workflowInfo,
} from '@temporalio/workflow';
import { SIGNAL_ADD, SIGNAL_WITHDRAW, type SignalledRequest, type WireRequest, type Written } from './contract';
import { writeExpired, writeNotConfirmed, writeNotSubmitted, writeRejected } from './errors';
import { Inbox } from './inbox';
import { deadlineAfter } from './times';

/** The longest pause before a signal that found no batcher is sent again, in milliseconds. */
const LONGEST_PAUSE = 10_000;

/** Later than this before its deadline, in milliseconds, no batch could take a request. */
const LAST_ATTEMPT = 500;

/**
 * Writes, and waits for the confirmation. A cancellation withdraws the request.
 *
 * @throws {WriteError} What went wrong, and whether it may be written.
 */
export async function writeBySignal(request: WireRequest, shard: string, timeout: number): Promise<Written> {
  const { workflowId, originalExecutionRunId } = workflowInfo();
  const id = request.request_id;
  const batcher = getExternalWorkflowHandle(shard);
  const inbox = Inbox.get();
  const arrival = inbox.expect(id);
  const sending = new Sending(batcher, {
    ...request,
    expires_at: deadlineAfter(timeout) / 1_000,
    reply_to: { workflow_id: workflowId, from_run_id: originalExecutionRunId },
  });
  try {
    // The answer may come before Temporal says that the signal has arrived.
    await condition(() => arrival.confirmation !== undefined || sending.error !== undefined, timeout);
  } catch (error) {
    if (isCancellation(error)) await CancellationScope.nonCancellable(() => withdraw(batcher, id, sending));
    throw error;
  } finally {
    sending.stop();
    inbox.forget(arrival);
  }
  const { confirmation } = arrival;
  if (confirmation === undefined) throw sending.error ?? writeNotConfirmed(id, `none within ${timeout} ms`);
  if (confirmation.outcome === 'rejected') throw writeRejected(confirmation);
  if (confirmation.outcome === 'expired') throw writeExpired(confirmation);
  return confirmation;
}

/** A signal on its way, and sent again until a batcher takes it: one may be about to be started. */
class Sending {
  /** Why it was given up; undefined while it is not. */
  error: unknown;
  private readonly scope = new CancellationScope();
  private readonly done: Promise<void>;

  constructor(
    private readonly batcher: ExternalWorkflowHandle,
    private readonly request: SignalledRequest,
  ) {
    this.done = this.scope.run(() => this.send()).catch((error: unknown) => {
      this.error = error;
    });
  }

  /** Sends no further signal. One that has left the workflow cannot be called back. */
  stop(): void {
    this.scope.cancel();
  }

  /** Stops, and waits for what became of a signal that is under way. */
  async stopped(): Promise<void> {
    this.stop();
    await this.done;
  }

  private async send(): Promise<void> {
    for (let pause = 1_000; ; pause = Math.min(2 * pause, LONGEST_PAUSE)) {
      try {
        return await this.batcher.signal(SIGNAL_ADD, this.request);
      } catch (error) {
        if (isCancellation(error)) throw error;
        const left = 1_000 * this.request.expires_at - Date.now() - LAST_ATTEMPT;
        if (left < 1_000) throw writeNotSubmitted(this.request.request_id, `${this.batcher.workflowId} took no signal`);
        await sleep(Math.min(pause, left));
      }
    }
  }
}

/** Takes the request back, after its own signal has arrived or failed: it must not be overtaken. */
async function withdraw(batcher: ExternalWorkflowHandle, requestId: string, sending: Sending): Promise<void> {
  await sending.stopped();
  const { workflowId, originalExecutionRunId } = workflowInfo();
  try {
    await batcher.signal(SIGNAL_WITHDRAW, requestId, workflowId, originalExecutionRunId);
  } catch {
    // No batcher, nothing to withdraw.
  }
}
