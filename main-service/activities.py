"""What the payment workflow does besides writing: check the payment and work out its fee, and close the booking.

Money is `Decimal` throughout and travels as text: a float cannot hold 0.10.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation

from temporalio import activity
from temporalio.exceptions import ApplicationError

CENT = Decimal("0.01")
FEE_RATE = Decimal("0.0025")
FEE_LIMITS = {"EUR": (Decimal("0.10"), Decimal("25.00")), "USD": (Decimal("0.12"), Decimal("30.00"))}
OTHER_FEE_LIMITS = (Decimal("0.15"), Decimal("40.00"))
HIGHEST_AMOUNT = Decimal("1000000.00")


@dataclass(frozen=True)
class Payment:
    """A payment as it arrives.

    Attributes:
        payment_id: The payment's own name, unique for ever: a payment that arrives twice is booked once.
        account: The account it is booked on.
        amount: A decimal number as text, e.g. ``"12.50"``.
        currency: Three capital letters.
        booked_at: When it was made, ISO 8601 with a zone.
        memo: What the payer wrote.
    """

    payment_id: str
    account: str
    amount: str
    currency: str
    booked_at: str
    memo: str = ""


@dataclass(frozen=True)
class Entry:
    """The ledger entry that a payment becomes: the columns of the table ``entries``."""

    payment_id: str
    account: str
    amount: str
    fee: str
    currency: str
    booked_at: str
    memo: str


@dataclass(frozen=True)
class Receipt:
    """What the payer is told."""

    number: str
    text: str


@activity.defn
async def prepare_entry(payment: Payment) -> Entry:
    """Checks a payment and turns it into a ledger entry.

    Raises:
        ApplicationError: ``InvalidPayment``, not retried: the same payment would fail again.
    """
    try:
        amount = check_payment(payment)
    except ValueError as err:
        raise ApplicationError(
            f"payment {payment.payment_id!r}: {err}", type="InvalidPayment", non_retryable=True
        ) from None
    return Entry(
        payment_id=payment.payment_id,
        account=payment.account,
        amount=str(amount),
        fee=str(fee_for(amount, payment.currency)),
        currency=payment.currency,
        booked_at=payment.booked_at,
        memo=payment.memo,
    )


@activity.defn
async def issue_receipt(entry: Entry, batch_id: str) -> Receipt:
    """Closes the booking: the entry is in the database by now, and this is where the payer would hear of it."""
    total = Decimal(entry.amount) + Decimal(entry.fee)
    return Receipt(
        number=f"R-{entry.payment_id}",
        text=f"{total} {entry.currency} from {entry.account}, booked in batch {batch_id or '(booked earlier)'}",
    )


def check_payment(payment: Payment) -> Decimal:
    """The payment's amount, if the payment is one that can be booked.

    Raises:
        ValueError: Which field is wrong, and what is allowed.
    """
    if not 1 <= len(payment.payment_id) <= 64:
        raise ValueError(f"payment_id {payment.payment_id!r}: 1 to 64 characters")
    if not 1 <= len(payment.account) <= 64:
        raise ValueError(f"account {payment.account!r}: 1 to 64 characters")
    if not (len(payment.currency) == 3 and payment.currency.isascii() and payment.currency.isupper()):
        raise ValueError(f"currency {payment.currency!r}: three capital letters, such as EUR")
    try:
        if datetime.fromisoformat(payment.booked_at).tzinfo is None:
            raise ValueError
    except ValueError:
        raise ValueError(
            f"booked_at {payment.booked_at!r}: a time with its zone, such as 2026-03-01T12:00:00+00:00"
        ) from None
    try:
        amount = Decimal(payment.amount)
    except InvalidOperation:
        raise ValueError(f"amount {payment.amount!r}: a decimal number, such as 12.50") from None
    if not amount.is_finite() or not 0 < amount <= HIGHEST_AMOUNT or amount != amount.quantize(CENT):
        raise ValueError(f"amount {payment.amount!r}: from 0.01 to {HIGHEST_AMOUNT}, with two decimals at most")
    return amount.quantize(CENT)


def fee_for(amount: Decimal, currency: str) -> Decimal:
    """A quarter of a percent within the currency's limits, rounded half to even."""
    lowest, highest = FEE_LIMITS.get(currency, OTHER_FEE_LIMITS)
    return min(max((amount * FEE_RATE).quantize(CENT, ROUND_HALF_EVEN), lowest), highest)
