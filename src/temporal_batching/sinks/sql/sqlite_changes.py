"""SQLite's updates, deletes and additions.

SQLite adds decimals as doubles and turns a whole number that overflows into one. So it calls back to add: exactly, or
the request is rejected. Additions to one row are summed beforehand, so that its triggers see one update.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Sequence
from decimal import Context, Decimal, Inexact
from typing import Any, TypeAlias

from temporal_batching.contract import RejectCode
from temporal_batching.sinks.sql.changes import key_and_others
from temporal_batching.sinks.sql.errors import DatabaseFailure, ErrorClass
from temporal_batching.sinks.sql.schema import BoundTable
from temporal_batching.sinks.sql.types import INT64, SQLITE_DIGITS

ADD = "temporal_batching_add"
"""The name of the function that adds, in SQL."""

Number: TypeAlias = int | float
Quote: TypeAlias = Callable[[str], str]

_EXACT = Context(prec=1_000, traps=[Inexact])


class NotExact(ArithmeticError):
    """A sum that the column cannot hold; the message says why."""


def add(one: Any, other: Any, kind: str) -> Number:
    """The sum of two stored values, as a column of this kind holds it (`BoundColumn.number`).

    Raises:
        NotExact: It cannot hold it.
    """
    if not isinstance(one, int | float) or not isinstance(other, int | float):
        raise NotExact("the row holds no number")
    if kind == "double":
        total = float(one) + float(other)
        if math.isinf(total) and not (math.isinf(one) or math.isinf(other)):
            raise NotExact("the sum is out of the range of a double")
        return total
    if isinstance(one, int) and isinstance(other, int):
        if INT64[0] <= one + other <= INT64[1]:
            return one + other
        raise NotExact(f"the sum is not from {INT64[0]} to {INT64[1]}")
    if kind == "integer" or not (math.isfinite(one) and math.isfinite(other)):
        raise NotExact("the row holds no whole number" if kind == "integer" else "the row holds no decimal number")
    return _decimal_sum(one, other)


def _decimal_sum(one: Number, other: Number) -> Number:
    try:
        exact = _EXACT.add(Decimal(repr(one)), Decimal(repr(other)))
    except Inexact:
        raise NotExact(f"the sum has more than {SQLITE_DIGITS} digits") from None
    if exact == exact.to_integral_value() and INT64[0] <= exact <= INT64[1]:
        return int(exact)
    total = float(exact)
    if Decimal(repr(total)) != exact:
        raise NotExact(f"the sum has more than {SQLITE_DIGITS} digits: SQLite would round it")
    return total


class Adder:
    """Adds for a connection, and remembers why it could not: SQLite says only that a function has failed.

    Attributes:
        fault: Why the latest addition failed; empty if none has.
    """

    def __init__(self, driver: sqlite3.Connection) -> None:
        self.fault = ""
        driver.create_function(ADD, 3, self._add, deterministic=True)

    def _add(self, one: Any, other: Any, kind: str) -> Number:
        try:
            return add(one, other, kind)
        except NotExact as err:
            self.fault = str(err)
            raise


def not_exact(table: BoundTable, fault: str) -> DatabaseFailure:
    """The failure of an addition."""
    reason = f"{table.name}: the numbers cannot be added: {fault}"
    return DatabaseFailure(ErrorClass.REQUEST, reason, code=RejectCode.TYPE)


def merge(table: BoundTable, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[tuple[Any, ...], list[Any]]:
    """One row for each key: its sums, the latest of what a conflict overwrites, the first of everything else.

    Keys that are equal here are equal to SQLite; others that SQLite takes for equal are added one after the other.

    Raises:
        DatabaseFailure: A sum cannot be held.
    """
    key, others = key_and_others(table, columns)
    updated = set(table.updated(columns))
    merged: dict[tuple[Any, ...], list[Any]] = {}
    for row in rows:
        identity = tuple(row[position] for position in key)
        there = merged.get(identity)
        if there is None:
            merged[identity] = list(row)
            continue
        for position in others:
            name = columns[position]
            if name in table.rule.add:
                try:
                    there[position] = add(there[position], row[position], table.columns[name].number)
                except NotExact as err:
                    raise not_exact(table, str(err)) from None
            elif name in updated:
                there[position] = row[position]
    return merged


def add_sql(table: BoundTable, columns: Sequence[str], quote: Quote) -> str:
    """The statement that adds one row: its parameters are the values of these columns."""
    changes = [
        f"{quote(name)} = {ADD}(coalesce({quote(name)}, 0), excluded.{quote(name)}, '{table.columns[name].number}')"
        for name in columns
        if name in table.rule.add
    ]
    changes += [f"{quote(name)} = excluded.{quote(name)}" for name in table.updated(columns)]
    return (
        f"INSERT INTO {quote(table.table.name)} ({', '.join(map(quote, columns))})"
        f" VALUES ({', '.join('?' * len(columns))})"
        f" ON CONFLICT ({', '.join(map(quote, table.rule.key))}) DO UPDATE SET {', '.join(changes)}"
    )


def update_sql(table: BoundTable, columns: Sequence[str], quote: Quote) -> str:
    """The statement that updates one row: its parameters are the values to set, and then those of the key."""
    _, others = key_and_others(table, columns)
    changes = ", ".join(f"{quote(columns[position])} = ?" for position in others)
    return f"UPDATE {quote(table.table.name)} SET {changes}{_by_key(table, quote)}"


def delete_sql(table: BoundTable, returning: Sequence[str], quote: Quote) -> str:
    """The statement that deletes one row: its parameters are the values of the key."""
    shown = f" RETURNING {', '.join(map(quote, returning))}" if returning else ""
    return f"DELETE FROM {quote(table.table.name)}{_by_key(table, quote)}{shown}"


def read_sql(table: BoundTable, returning: Sequence[str], quote: Quote) -> str:
    """The query of one row by its key."""
    return f"SELECT {', '.join(map(quote, returning))} FROM {quote(table.table.name)}{_by_key(table, quote)}"


def _by_key(table: BoundTable, quote: Quote) -> str:
    return f" WHERE {' AND '.join(f'{quote(name)} = ?' for name in table.rule.key)}"
