/** A write by a Nexus operation: for workflows of another namespace than the batcher's. Experimental. */

import { NexusOperationFailure } from '@temporalio/common';
import { createNexusServiceClient, isCancellation } from '@temporalio/workflow';
import * as nexus from 'nexus-rpc';
import type { WireRequest, Written } from './contract';
import { writeError } from './errors';
import { summaryOf } from './request';
import { deadlineAfter } from './times';

const service = nexus.service('temporal-batching', {
  write: nexus.operation<WireRequest & { readonly expires_at: number }, Written>({ name: 'batch_write' }),
});

/**
 * Writes, and waits for the confirmation. A cancellation withdraws the request.
 *
 * @throws {WriteError} What went wrong, and whether it may be written.
 */
export async function writeByNexus(request: WireRequest, endpoint: string, timeout: number): Promise<Written> {
  const client = createNexusServiceClient({ endpoint, service });
  const expiring = { ...request, expires_at: deadlineAfter(timeout) / 1_000 };
  try {
    return await client.executeOperation('write', expiring, {
      scheduleToCloseTimeout: timeout,
      cancellationType: 'WAIT_CANCELLATION_REQUESTED', // or the workflow may end before the batcher has heard of it
      summary: summaryOf(request),
    });
  } catch (error) {
    if (isCancellation(error) || !(error instanceof NexusOperationFailure)) throw error;
    throw writeError(request.request_id, error.cause);
  }
}
