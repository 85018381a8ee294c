"""Random operations on a table, in random batches, and what they come to if they are done one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeAlias
from uuid import uuid4

from hypothesis import strategies as st

from temporal_batching.contract import OPERATIONS, Operation, Outcome, OutcomeKind, Record, RejectCode, WriteRequest
from temporal_batching.sinks.base import Batch
from temporal_batching.sinks.rules import TableRule
from temporal_batching.sinks.sql import SqlSink

Read: TypeAlias = Callable[[str], Sequence[Sequence[Any]]]
Row: TypeAlias = dict[str, Any]

TABLES = (
    "CREATE TABLE IF NOT EXISTS rows_ (id varchar(20) PRIMARY KEY, n integer, note varchar(40) DEFAULT 'new');;"
    "CREATE TABLE IF NOT EXISTS sums (id varchar(20) PRIMARY KEY, n bigint DEFAULT 0, amount numeric(12,4),"
    " note varchar(40))"
)
RULES = {
    "rows_": TableRule(key=["id"], operations={"insert", "update", "delete"}),
    "sums": TableRule(
        conflict="add", key=["id"], add=["n", "amount"], update=["note"], operations={"insert", "update", "delete"}
    ),
}
COLUMNS = {"rows_": ["id", "n", "note"], "sums": ["id", "n", "amount", "note"]}

ids = st.sampled_from(["a", "b", "c", "d"])
numbers = st.integers(-50, 50)
amounts = st.decimals(-100, 100, places=4).map(str)
notes = st.sampled_from(["x", "y", None])
keys = st.sampled_from(["", "", "k", "l"])


@st.composite
def records(draw: st.DrawFn) -> Record:
    """One operation."""
    table = draw(st.sampled_from(["rows_", "sums"]))
    operation: Operation = draw(st.sampled_from(OPERATIONS))
    values: dict[str, Any] = {"id": draw(ids)}
    if operation != "delete":
        kinds = {"n": numbers, "note": notes} if table == "rows_" else {"n": numbers, "amount": amounts, "note": notes}
        least = 0 if operation == "insert" and table == "rows_" else 1
        chosen = draw(st.lists(st.sampled_from(sorted(kinds)), min_size=least, unique=True))
        if table == "sums" and operation == "insert" and not {"n", "amount"} & set(chosen):
            chosen.append("n")
        values |= {name: draw(kinds[name]) for name in chosen}
    returning = draw(st.sampled_from([(), (), tuple(COLUMNS[table])]))
    return Record(table, values, returning, operation)


@st.composite
def batches(draw: st.DrawFn) -> list[list[WriteRequest]]:
    """Batches of requests, some of one key."""
    made, number = [], 0
    for _ in range(draw(st.integers(1, 4))):
        batch = []
        for _ in range(draw(st.integers(1, 8))):
            number += 1
            batch.append(WriteRequest(f"r{number}", draw(st.lists(records(), min_size=1, max_size=3)), draw(keys)))
        made.append(batch)
    return made


class _Rejected(Exception):
    def __init__(self, code: RejectCode) -> None:
        self.code = code


@dataclass(frozen=True)
class Expected:
    """What is to become of a request, and the row of each of its records: after it, or before a delete."""

    kind: OutcomeKind
    code: RejectCode | None
    rows: Sequence[Row | None] = ()

    def is_of(self, request: WriteRequest, outcome: Outcome) -> bool:
        """Whether an outcome is the expected one. Of additions the sums are not compared: they are those of a batch."""
        if outcome.kind is not self.kind or (outcome.code is not self.code and len(request.records) == 1):
            return False  # of several faults in a request any may be named
        if outcome.kind is not OutcomeKind.WRITTEN or outcome.returned is None:
            return True
        for record, returned, row in zip(request.records, outcome.returned, self.rows, strict=True):
            if not record.returning:
                if returned != {}:
                    return False
            elif (returned is None) != (row is None) or (record.table == "rows_" and returned != row):
                return False
        return True


@dataclass
class Model:
    """What the tables hold if requests are applied one by one."""

    tables: dict[str, dict[str, Row]] = field(default_factory=lambda: {"rows_": {}, "sums": {}})

    def apply(self, request: WriteRequest) -> Expected:
        """Applies a request whole, or not at all."""
        before = {table: {key: dict(row) for key, row in rows.items()} for table, rows in self.tables.items()}
        shown: list[Row | None] = []
        try:
            for record in request.records:
                gone = self.tables[record.table].get(record.values["id"])
                self._apply(record)
                row = gone if record.operation == "delete" else self.tables[record.table][record.values["id"]]
                shown.append(None if row is None else dict(row))
        except _Rejected as err:
            self.tables = before
            return Expected(OutcomeKind.REJECTED, err.code)
        return Expected(OutcomeKind.WRITTEN, None, shown)

    def _apply(self, record: Record) -> None:
        rows, values = self.tables[record.table], dict(record.values)
        if values.get("amount") is not None:
            values["amount"] = Decimal(values["amount"])
        key = values["id"]
        there = rows.get(key)
        if record.operation == "delete":
            rows.pop(key, None)
        elif record.operation == "update":
            if there is None:
                raise _Rejected(RejectCode.MISSING_ROW)
            there.update(values)
        elif there is None:
            defaults: Row = {"n": None, "note": "new"} if record.table == "rows_" else {"n": 0, "amount": None}
            rows[key] = {**dict.fromkeys(COLUMNS[record.table]), **defaults, **values}
        elif record.table == "rows_":
            raise _Rejected(RejectCode.CONSTRAINT)
        else:
            for name in ("n", "amount"):
                if name in values:
                    there[name] = Decimal(there[name] or 0) + Decimal(values[name])
            if "note" in values:
                there["note"] = values["note"]

    def rows(self, table: str) -> list[tuple[Any, ...]]:
        """The rows of a table, comparable with those of any database."""
        return comparable([tuple(row[name] for name in COLUMNS[table]) for row in self.tables[table].values()])


def comparable(rows: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
    """Rows in one order, their numbers as decimals."""
    return sorted((tuple(map(_number, row)) for row in rows), key=lambda row: str(row[0]))


def _number(value: Any) -> Any:
    return Decimal(repr(value) if isinstance(value, float) else value) if isinstance(value, int | float) else value


async def check_batches(sink: SqlSink, made: Sequence[Sequence[WriteRequest]], read: Read) -> None:
    """Writes batches, and compares outcomes, returned rows and tables with the model."""
    model = Model()
    for number, requests in enumerate(made):
        outcomes = await sink.write(Batch(requests, id=f"main-0/{uuid4().hex}/{number}"))
        for request, outcome in zip(requests, outcomes, strict=True):
            expected = model.apply(request)
            assert expected.is_of(request, outcome), (request, outcome, expected)
        for table, columns in COLUMNS.items():
            assert comparable(read(f"SELECT {', '.join(columns)} FROM {table}")) == model.rows(table)
