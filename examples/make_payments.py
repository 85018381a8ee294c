"""Makes the example payments: the same seed gives the same ones.

python examples/make_payments.py > examples/payments.csv
"""

from __future__ import annotations

import csv
import random
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

FIELDS = ("payment_id", "account", "amount", "currency", "booked_at", "memo")
SEED = 20260301
EXAMPLES = 500

_PAYERS = (
    "Ana Souza", "Zoë Müller", "Łukasz Wójcik", "Søren Ødegård", "Siobhán Ní Bhriain", "José Núñez", "François Lefèvre",
    "Γιώργος Παπαδόπουλος", "Ольга Смирнова", "陳美玲", "山田太郎", "김민준", "فاطمة الزهراء", "דוד לוי", "अनिता शर्मा",
    "Nguyễn Thị Hương", "Ayşe Şahin", "Mary Smith", "Jan de Vries", "Chidi Okonkwo",
)  # fmt: skip
_PURPOSES = (
    "rent", "invoice {n}", "groceries", "salary advance", "train ticket", "concert, 2 seats", "café", "book order {n}",
    'gift for "Oma"', "electricity, March", "refund; order {n}", "dentist", "charity", "gym: monthly fee", "piñata",
)  # fmt: skip
_CURRENCIES = ("EUR", "EUR", "EUR", "EUR", "USD", "USD", "GBP", "PLN", "SEK", "CHF")


def plausible_payments(count: int, *, seed: int = SEED, prefix: str = "P") -> Iterator[dict[str, str]]:
    """Payments as rows of text, in the order of their times."""
    random_ = random.Random(seed)
    when = datetime(2026, 3, 2, 6, 0, tzinfo=UTC)
    for number in range(1, count + 1):
        when += timedelta(seconds=random_.randint(5, 120))
        purpose = random_.choice(_PURPOSES).format(n=random_.randint(10_000, 99_999))
        cents = max(int(random_.lognormvariate(8.3, 1.3)), 50)
        yield {
            "payment_id": f"{prefix}-{number:06}",
            "account": f"acct-{random_.randint(1, 120):04}",
            "amount": str(Decimal(cents).scaleb(-2)),
            "currency": random_.choice(_CURRENCIES),
            "booked_at": when.isoformat(),
            "memo": f"{random_.choice(_PAYERS)}: {purpose}",
        }


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    writer = csv.DictWriter(sys.stdout, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(plausible_payments(EXAMPLES))
