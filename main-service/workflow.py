"""A payment is booked: prepare the booking, write it through the batcher, issue the receipt.

The write is one line. It returns when the booking is committed, together with those of other payments that happened to
be under way; it raises when this payment's own booking failed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Literal

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from activities import issue_receipt, prepare_booking
    from payments import Payment

    from temporal_batching import BatchWriter, WriteError

TASK_QUEUE = "main-workflow-queue"
TABLE = "entries"


@dataclass(frozen=True)
class Route:
    """The way to the batcher, as plain data, because it travels in a workflow's input.

    Attributes:
        via: ``signal``: the workflow signals the batcher, and gets a signal back. ``activity``: Temporal runs the
            activity ``batch_write``, which is cheaper and waits while the batcher is busy. ``nexus``: the batcher is in
            another namespace.
        gateway: Whose worker runs that activity.
        endpoint: With ``nexus``: the endpoint that leads to the batcher.
    """

    batcher: str = "main"
    task_queue: str | None = None
    shards: int = 1
    via: Literal["signal", "activity", "nexus"] = "signal"
    gateway: Literal["local", "batcher"] = "local"
    timeout_seconds: float = 120.0
    endpoint: str | None = None

    def writer(self) -> BatchWriter:
        return BatchWriter(
            self.batcher,
            via=self.via,
            gateway=self.gateway if self.via != "nexus" else "batcher",
            endpoint=self.endpoint,
            shards=self.shards,
            task_queue=self.task_queue,
            timeout=timedelta(seconds=self.timeout_seconds),
        )


@dataclass(frozen=True)
class PaymentInput:
    payment: Payment
    route: Route = field(default_factory=Route)


@dataclass(frozen=True)
class PaymentResult:
    """What became of a payment.

    Attributes:
        payment_id: The payment, which is also the write's idempotency key.
        fee: What it cost.
        outcome: ``written``, or ``duplicate`` if this payment had been booked before.
        batch_id: The batch it was committed in.
        batch_size: How many writes shared that transaction.
        entry_id: The key that the database gave the booking; None on the console, which gives none.
        receipt: The receipt's number.
    """

    payment_id: str
    fee: str
    outcome: str
    batch_id: str
    batch_size: int
    entry_id: int | None
    receipt: str


@workflow.defn
class PaymentWorkflow:
    """Books one payment.

    It fails, with the payment unbooked unless the error says otherwise, on ``InvalidPayment`` (the payment itself),
    ``WriteNotSubmitted`` (the batcher could not be reached), ``WriteNotConfirmed`` (no confirmation in time: it may
    be booked), ``WriteExpired`` (too late: it is not booked) and ``WriteRejected`` (the database's own reason).
    """

    @workflow.init
    def __init__(self, payment: PaymentInput) -> None:
        # Made here, not in run: by signal, the writer listens for its confirmation from the first task on.
        self._bookings = payment.route.writer()

    @workflow.run
    async def run(self, payment: PaymentInput) -> PaymentResult:
        workflow.set_current_details("Preparing the booking.")
        booking = await workflow.execute_activity(
            prepare_booking,
            payment.payment,
            start_to_close_timeout=timedelta(seconds=10),
            retry_policy=RetryPolicy(maximum_attempts=5),
            summary=f"check {payment.payment.payment_id}, work out its fee",
        )

        workflow.set_current_details("Waiting for the batch to commit.")
        try:
            # The payment's id names the write: the same payment, sent twice, is booked once.
            confirmation = await self._bookings.write(
                TABLE, asdict(booking), key=booking.account, request_id=booking.payment_id, returning=["entry_id"]
            )
        except WriteError as err:
            # Already an ApplicationError: it fails the workflow, and callers see its type and its reason.
            workflow.set_current_details(f"Not booked: {err.message}")
            raise

        (entry,) = confirmation.returned or [None]
        workflow.set_current_details(f"Booked in batch {confirmation.batch_id} of {confirmation.batch_size}.")
        receipt = await workflow.execute_activity(
            issue_receipt,
            args=[booking, confirmation.batch_id],
            start_to_close_timeout=timedelta(seconds=10),
            summary=f"receipt for {booking.payment_id}",
        )
        return PaymentResult(
            payment_id=booking.payment_id,
            fee=booking.fee,
            outcome=confirmation.outcome,
            batch_id=confirmation.batch_id,
            batch_size=confirmation.batch_size,
            entry_id=entry["entry_id"] if entry else None,
            receipt=receipt.number,
        )
