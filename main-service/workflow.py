"""A payment becomes a ledger entry: prepare it, write it through the batcher, issue the receipt.

The write is one line. It returns when the entry is committed, together with the entries of other payments that
happened to be under way; it raises when this payment's own entry did not come to be.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Literal

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from activities import Payment, issue_receipt, prepare_entry

    from temporal_batching import BatchWriter, WriteError

TASK_QUEUE = "main-workflow-queue"
TABLE = "entries"


@dataclass(frozen=True)
class Route:
    """The way to the batcher, as plain data, because it travels in a workflow's input."""

    batcher: str = "main"
    task_queue: str | None = None
    shards: int = 1
    via: Literal["activity", "signal"] = "activity"
    gateway: Literal["local", "batcher"] = "local"
    timeout_seconds: float = 120.0


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
        batch_id: The batch its entry was committed in.
        batch_size: How many writes shared that transaction.
        receipt: The receipt's number.
    """

    payment_id: str
    fee: str
    outcome: str
    batch_id: str
    batch_size: int
    receipt: str


@workflow.defn
class PaymentWorkflow:
    """Books one payment.

    It fails, with the payment unbooked unless the error says otherwise, on ``InvalidPayment`` (the payment itself),
    ``WriteNotSubmitted`` (the batcher could not be reached), ``WriteNotConfirmed`` (no word in time: it may be
    booked), ``WriteExpired`` (too late: it is not booked) and ``WriteRejected`` (the database's own reason).
    """

    @workflow.init
    def __init__(self, payment: PaymentInput) -> None:
        route = payment.route
        # Made here, not in run: on the signal door the writer listens for its confirmation from the first task on.
        self._ledger = BatchWriter(
            route.batcher,
            via=route.via,
            gateway=route.gateway,
            shards=route.shards,
            task_queue=route.task_queue,
            timeout=timedelta(seconds=route.timeout_seconds),
        )

    @workflow.run
    async def run(self, payment: PaymentInput) -> PaymentResult:
        workflow.set_current_details("Preparing the entry.")
        entry = await workflow.execute_activity(
            prepare_entry,
            payment.payment,
            start_to_close_timeout=timedelta(seconds=10),
            retry_policy=RetryPolicy(maximum_attempts=5),
            summary=f"check {payment.payment.payment_id}, work out its fee",
        )

        workflow.set_current_details("Waiting for the batch to commit.")
        try:
            # The payment's id names the write: the same payment, sent twice, is booked once.
            confirmation = await self._ledger.write(
                TABLE, asdict(entry), key=entry.account, request_id=entry.payment_id
            )
        except WriteError as err:
            # Already an ApplicationError: it fails the workflow, and callers see its type and its reason.
            workflow.set_current_details(f"Not booked: {err.message}")
            raise

        workflow.set_current_details(f"Booked in batch {confirmation.batch_id} of {confirmation.batch_size}.")
        receipt = await workflow.execute_activity(
            issue_receipt,
            args=[entry, confirmation.batch_id],
            start_to_close_timeout=timedelta(seconds=10),
            summary=f"receipt for {entry.payment_id}",
        )
        return PaymentResult(
            payment_id=entry.payment_id,
            fee=entry.fee,
            outcome=confirmation.outcome,
            batch_id=confirmation.batch_id,
            batch_size=confirmation.batch_size,
            receipt=receipt.number,
        )
