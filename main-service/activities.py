"""What the payment workflow does besides writing: prepare the booking, and issue the receipt."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from payments import Booking, Payment, fee_for
from temporalio import activity
from temporalio.exceptions import ApplicationError


@dataclass(frozen=True)
class Receipt:
    """What the payer gets."""

    number: str
    text: str


@activity.defn
async def prepare_booking(payment: Payment) -> Booking:
    """Checks a payment and works out its fee.

    Raises:
        ApplicationError: ``InvalidPayment``, not retried: the same payment would fail again.
    """
    try:
        amount = payment.check()
    except ValueError as err:
        problem = f"payment {payment.payment_id!r}: {err}"
        raise ApplicationError(problem, type="InvalidPayment", non_retryable=True) from None
    return Booking(
        payment_id=payment.payment_id,
        account=payment.account,
        amount=str(amount),
        fee=str(fee_for(amount, payment.currency)),
        currency=payment.currency,
        booked_at=payment.booked_at,
        memo=payment.memo,
    )


@activity.defn
async def issue_receipt(booking: Booking, batch_id: str) -> Receipt:
    """The booking is in the database by now: this is where the payer would get a message."""
    total = Decimal(booking.amount) + Decimal(booking.fee)
    return Receipt(
        number=f"R-{booking.payment_id}",
        text=f"{total} {booking.currency} from {booking.account}, booked in batch {batch_id or '(booked earlier)'}",
    )
