/** Confirmations that arrive by signal, handed to the writes that wait for them. */

import { defineSignal, setHandler } from '@temporalio/workflow';
import { type Confirmation, SIGNAL_CONFIRMATION } from './contract';

const confirmed = defineSignal<[Confirmation[]]>(SIGNAL_CONFIRMATION);

/** A workflow's own: its sandbox has the variables of its modules for itself. */
let ofThisWorkflow: Inbox | undefined;

/** A confirmation that a write waits for. */
export interface Arrival {
  readonly requestId: string;
  /** Undefined until it has arrived. */
  confirmation?: Confirmation;
}

export class Inbox {
  private readonly expected = new Set<Arrival>();

  /** The workflow's inbox. The first write by signal sets it up: the workflow must not handle that signal itself. */
  static get(): Inbox {
    if (ofThisWorkflow === undefined) {
      const inbox = new Inbox();
      setHandler(confirmed, (confirmations) => inbox.receive(confirmations));
      ofThisWorkflow = inbox;
    }
    return ofThisWorkflow;
  }

  /** From now on the confirmation of a request is kept. One that no write expects is dropped. */
  expect(requestId: string): Arrival {
    const arrival = { requestId };
    this.expected.add(arrival);
    return arrival;
  }

  forget(arrival: Arrival): void {
    this.expected.delete(arrival);
  }

  receive(confirmations: readonly Confirmation[]): void {
    for (const arrival of this.expected) {
      const own = confirmations.find((one) => one.request_id === arrival.requestId);
      if (own !== undefined) arrival.confirmation ??= own;
    }
  }
}
