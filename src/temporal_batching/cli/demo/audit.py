"""Holds what callers were told against what is in the database: every payment once, ledger and rows in agreement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from temporal_batching.cli.database import entries_table, sync_engine

LEDGER = "batching_ledger"


@dataclass
class Audit:
    """What the database holds of one run's payments, and every contradiction that was found.

    Attributes:
        rows: Rows of these payments.
        duplicates: Rows beyond the first of a payment.
        ledger_rows: Their requests in the ledger.
        problems: Contradictions in words; the audit holds if there are none.
    """

    rows: int = 0
    duplicates: int = 0
    ledger_rows: int = 0
    problems: list[str] = field(default_factory=list)


def audit(url: str, payments: Sequence[Mapping[str, str]], results: Mapping[str, Mapping[str, Any]]) -> Audit:
    """Compares.

    Args:
        url: The database.
        payments: What was to be booked.
        results: What each workflow ended with, by payment id.
    """
    wanted = {payment["payment_id"]: payment for payment in payments}
    engine = sync_engine(url)
    try:
        with engine.connect() as connection:
            rows = _rows_of(connection, entries_table(), "payment_id", wanted)
            ledger_table = sa.Table(LEDGER, sa.MetaData(), autoload_with=connection)
            ledger = {row.request_id: row for row in _rows_of(connection, ledger_table, "request_id", wanted)}
    finally:
        engine.dispose()
    counts = Counter(row.payment_id for row in rows)
    found = Audit(rows=len(rows), duplicates=len(rows) - len(counts), ledger_rows=len(ledger))
    problems = [problem for payment_id in wanted for problem in _check(payment_id, results, counts, ledger)]
    problems += [problem for row in rows if (problem := _differs(row, wanted[row.payment_id]))]
    found.problems = problems
    return found


def _rows_of(connection: sa.Connection, table: sa.Table, column: str, wanted: Mapping[str, Any]) -> list[Any]:
    # By the ids themselves: a database of the user's holds other payments too.
    ids = list(wanted)
    rows: list[Any] = []
    for start in range(0, len(ids), 500):
        some = ids[start : start + 500]
        rows += connection.execute(sa.select(table).where(table.c[column].in_(some))).all()
    return rows


def _check(
    payment_id: str, results: Mapping[str, Mapping[str, Any]], counts: Mapping[str, int], ledger: Mapping[str, Any]
) -> list[str]:
    result, entry, count = results.get(payment_id), ledger.get(payment_id), counts.get(payment_id, 0)
    problems = []
    if result is None or not result["ok"]:
        problems.append(f"{payment_id}: not confirmed ({result['error_type'] if result else 'no result'})")
        if count != (0 if entry is None else 1):
            problems.append(f"{payment_id}: {count} rows, though the ledger {'lacks' if entry is None else 'has'} it")
        return problems
    if count != 1:
        problems.append(f"{payment_id}: confirmed, and {count} rows")
    if entry is None:
        problems.append(f"{payment_id}: confirmed, and not in the ledger")
    elif result["batch_id"] != entry.batch_id:
        problems.append(f"{payment_id}: told batch {result['batch_id']}, the ledger says {entry.batch_id}")
    return problems


def _differs(row: Any, payment: Mapping[str, str]) -> str:
    for name in ("account", "currency", "memo"):
        if getattr(row, name) != payment[name]:
            return f"{row.payment_id}: {name} is not what was sent"
    return "" if f"{row.amount:.2f}" == payment["amount"] else f"{row.payment_id}: the amount is not what was sent"
