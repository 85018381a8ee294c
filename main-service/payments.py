"""Payments, and the bookings that they become.

Money is `Decimal` throughout and travels as text: a float cannot hold 0.10.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from pathlib import Path
from typing import Any

CENT = Decimal("0.01")
FEE_RATE = Decimal("0.0025")
FEE_LIMITS = {"EUR": (Decimal("0.10"), Decimal("25.00")), "USD": (Decimal("0.12"), Decimal("30.00"))}
OTHER_FEE_LIMITS = (Decimal("0.15"), Decimal("40.00"))
HIGHEST_AMOUNT = Decimal("1000000.00")
EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "payments.csv"


@dataclass(frozen=True)
class Payment:
    """A payment as it arrives.

    Attributes:
        payment_id: The payment's own name, unique forever: a payment that arrives twice is booked once.
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

    def check(self) -> Decimal:
        """The amount, if the payment is one that can be booked.

        Raises:
            ValueError: Which field is wrong, and what is allowed.
        """
        for name, text in (("payment_id", self.payment_id), ("account", self.account)):
            if not 1 <= len(text) <= 64:
                raise ValueError(f"{name} {text!r}: 1 to 64 characters")
        if not (len(self.currency) == 3 and self.currency.isascii() and self.currency.isupper()):
            raise ValueError(f"currency {self.currency!r}: three capital letters, such as EUR")
        try:
            if datetime.fromisoformat(self.booked_at).tzinfo is None:
                raise ValueError
        except ValueError:
            allowed = "a time with its zone, such as 2026-03-01T12:00:00+00:00"
            raise ValueError(f"booked_at {self.booked_at!r}: {allowed}") from None
        try:
            amount = Decimal(self.amount)
        except InvalidOperation:
            raise ValueError(f"amount {self.amount!r}: a decimal number, such as 12.50") from None
        if not amount.is_finite() or not 0 < amount <= HIGHEST_AMOUNT or amount != amount.quantize(CENT):
            raise ValueError(f"amount {self.amount!r}: from 0.01 to {HIGHEST_AMOUNT}, with two decimals at most")
        return amount.quantize(CENT)


@dataclass(frozen=True)
class Booking:
    """What a payment becomes: a row of the table ``entries``."""

    payment_id: str
    account: str
    amount: str
    fee: str
    currency: str
    booked_at: str
    memo: str


def fee_for(amount: Decimal, currency: str) -> Decimal:
    """A quarter of a percent within the currency's limits, rounded half to even."""
    lowest, highest = FEE_LIMITS.get(currency, OTHER_FEE_LIMITS)
    return min(max((amount * FEE_RATE).quantize(CENT, ROUND_HALF_EVEN), lowest), highest)


def example_payments(count: int, *, prefix: str) -> list[Payment]:
    """``count`` new payments: those of the example file, over and over, with ids of their own.

    A payment's id is its write's idempotency key: under the old ids they would be booked already.
    """
    examples = itertools.cycle(read_payments(EXAMPLES))
    return [replace(next(examples), payment_id=f"{prefix}-{number:06}") for number in range(1, count + 1)]


COLUMNS = tuple(field.name for field in fields(Payment))
REQUIRED = tuple(name for name in COLUMNS if name != "memo")
MOST_PROBLEMS = 20


def read_payments(path: Path) -> list[Payment]:
    """Reads a CSV file with a header, or one JSON object a line, and checks every payment.

    Raises:
        ValueError: The file cannot be read; or file, line and what is wrong, for each bad line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as err:
        raise ValueError(f"cannot read {path}: {err.strerror}") from None
    except UnicodeDecodeError as err:
        raise ValueError(f"{path} is not UTF-8 text (byte {err.start})") from None
    rows = _json_rows(text) if text.lstrip().startswith("{") else _csv_rows(text, path)
    payments: list[Payment] = []
    problems: list[str] = []
    lines: dict[str, int] = {}
    for line, row in rows:
        try:
            payment = _payment(row)
            if (earlier := lines.setdefault(payment.payment_id, line)) != line:
                raise ValueError(f"payment_id {payment.payment_id!r}: line {earlier} has it already")
            payments.append(payment)
        except ValueError as err:
            problems.append(f"{path}, line {line}: {err}")
    if len(problems) > MOST_PROBLEMS:
        problems[MOST_PROBLEMS:] = [f"... and {len(problems) - MOST_PROBLEMS} more bad lines"]
    if problems or not payments:
        raise ValueError("\n".join(problems) or f"{path} holds no payments")
    return payments


def _payment(row: Any) -> Payment:
    if isinstance(row, ValueError):
        raise row
    if not isinstance(row, dict):
        raise ValueError(f"a JSON object with {', '.join(COLUMNS)}, not {json.dumps(row, ensure_ascii=False)[:60]}")
    if unknown := sorted(set(row) - set(COLUMNS)):
        raise ValueError(f"unknown field {unknown[0]!r}: the fields are {', '.join(COLUMNS)}")
    if missing := [name for name in REQUIRED if not row.get(name)]:
        raise ValueError(f"{missing[0]} is missing")
    if wrong := [name for name, value in row.items() if not isinstance(value, str)]:
        raise ValueError(f"{wrong[0]} {row[wrong[0]]!r}: text")
    payment = Payment(**row)
    payment.check()
    return payment


def _csv_rows(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header = next(reader, [])
    if missing := [name for name in REQUIRED if name not in header]:
        raise ValueError(f"{path}, line 1: the header lacks {', '.join(missing)}; it is {','.join(COLUMNS)}")
    while True:
        line = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as err:
            yield line, ValueError(str(err))
            return
        if len(values) == len(header):
            yield line, dict(zip(header, values, strict=True))
        elif values:
            yield line, ValueError(f"{len(values)} fields, where the header has {len(header)}")


def _json_rows(text: str) -> Iterator[tuple[int, Any]]:
    for line, source in enumerate(text.splitlines(), start=1):
        if source.strip():
            try:
                # A number stays the text it is: as a float, 0.10 would not survive.
                yield line, json.loads(source, parse_float=str, parse_int=str)
            except ValueError as err:
                yield line, ValueError(f"not JSON: {err}")
