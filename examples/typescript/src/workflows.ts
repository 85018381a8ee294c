/** An order, written with its lines in one transaction, through a batcher. */

import { BatchWriter, type WriterOptions } from './batching/writer';
import { isWriteError } from './batching/errors';

export interface Order {
  /** The shop's own number, which makes the request idempotent. */
  readonly number: string;
  readonly customer: string;
  readonly lines: readonly OrderLine[];
}

export interface OrderLine {
  readonly article: string;
  /** A decimal as a string: `9.90`. */
  readonly price: string;
}

/** What became of an order. */
export type OrderResult =
  | { readonly status: 'placed'; readonly id: string; readonly again: boolean; readonly batch: string }
  | { readonly status: 'refused'; readonly code: string; readonly reason: string }
  | { readonly status: 'late' | 'closed' | 'unknown'; readonly message: string };

/** Places an order. Its id is the key that the database has generated. */
export async function placeOrder(order: Order, options: WriterOptions = {}): Promise<OrderResult> {
  const batcher = new BatchWriter(options);
  try {
    const written = await batcher.writeAll(
      [
        { table: 'orders', values: { number: order.number, customer: order.customer }, returning: ['id'] },
        ...order.lines.map(({ article, price }) => ({
          table: 'lines',
          values: { article, price },
          references: { order_id: [0, 'id'] as const },
        })),
      ],
      { key: order.customer, requestId: `order-${order.number}` },
    );
    return {
      status: 'placed',
      id: String(written.returned?.[0]?.['id']),
      again: written.outcome === 'duplicate',
      batch: written.batch_id ?? '',
    };
  } catch (error) {
    if (!isWriteError(error)) throw error;
    switch (error.type) {
      case 'WriteRejected': // the batcher, or the database, does not take it
        return { status: 'refused', code: error.details[0].code, reason: error.details[0].reason };
      case 'WriteExpired': // certainly not written: it may be placed again, under another id too
        return { status: 'late', message: error.message };
      case 'WriteNotSubmitted': // likewise
        return { status: 'closed', message: error.message };
      case 'WriteNotConfirmed': // it may be written: place it again only under the same id
        return { status: 'unknown', message: error.message };
    }
  }
}
