"""What a row must be like after all records that were written to it: the last of them decides. Pure functions.

Several records may insert, update, add to and delete one row. Where histories show in which order two requests were
applied, the later one decides; where they show none, any of the two may have been the last, and both results are
accepted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from temporal_batching.audit.rules import Rule

SKEW = 1.0
"""Seconds by which the clocks of two servers of Temporal may differ."""


@dataclass
class Period:
    """When a request was applied, on each clock that tells anything about it.

    A clock is anything that orders events: the time of the server, the history of one caller, the arrivals of one key
    in a shard. On a clock a request was applied after what ended before its beginning.

    Attributes:
        begins: By clock, when it may have been applied first.
        ends: By clock, when it was applied at the latest.
    """

    begins: dict[Any, Any] = field(default_factory=dict)
    ends: dict[Any, Any] = field(default_factory=dict)

    def precedes(self, other: Period) -> bool:
        """Whether it was certainly applied before the other one."""
        return any(clock in other.begins and end < other.begins[clock] for clock, end in self.ends.items())


@dataclass(frozen=True)
class RowWrite:
    """A written record, as far as it concerns its row.

    Attributes:
        request_id: The record's request.
        position: The position of the record in its request.
        period: When its request was applied.
        deletes: Whether it deletes the row.
        whole: Whether it may have set columns that it does not name: it may have inserted the row.
        sets: The columns that have its values after it.
        leaves: The columns that it names, but whose values after it are not known.
        adds: By column, the number that it adds; None if that is not known.
        numbers: By column, the number that it sets; columns with other values are left out.
        row: What identifies the row that was found; empty if there is none.
        differs: The columns of the row whose values differ from the record's.
        found: By column to which records may add, the number in the row.
    """

    request_id: str
    position: int
    period: Period
    deletes: bool = False
    whole: bool = False
    sets: Collection[str] = ()
    leaves: Collection[str] = ()
    adds: Mapping[str, Decimal | None] = field(default_factory=dict)
    numbers: Mapping[str, Decimal | None] = field(default_factory=dict)
    row: str = ""
    differs: Collection[str] = ()
    found: Mapping[str, Any] = field(default_factory=dict)

    def precedes(self, other: RowWrite) -> bool:
        """Whether it was certainly applied before the other one."""
        if self.request_id == other.request_id:
            return self.position < other.position
        return self.period.precedes(other.period)


def last_of(writes: Sequence[RowWrite]) -> list[RowWrite]:
    """Those that may have been applied last: no other one was certainly applied after them."""
    latest: dict[Any, Any] = {}
    last_position: dict[str, int] = defaultdict(int)
    for write in writes:
        for clock, begin in write.period.begins.items():
            latest[clock] = max(latest.get(clock, begin), begin)
        last_position[write.request_id] = max(last_position[write.request_id], write.position)
    return [
        write
        for write in writes
        if write.position == last_position[write.request_id]
        and not any(clock in latest and end < latest[clock] for clock, end in write.period.ends.items())
    ]


@dataclass(frozen=True)
class RowFault:
    """A row that is not as its records left it."""

    rule: Rule
    request_id: str
    detail: str


def judge_row(writes: Sequence[RowWrite], *, may_be_gone: bool, values_known: bool) -> Iterator[RowFault]:
    """Compares a row with the records that were written to it.

    Args:
        writes: All written records of the row that are known.
        may_be_gone: Whether a record that is not known may have deleted it.
        values_known: Whether no record is unknown, so that the values can be judged.
    """
    last = last_of(writes)
    if not any(write.row for write in writes):
        if not any(write.deletes for write in last) and not may_be_gone:
            yield RowFault(Rule.LEDGER_WITHOUT_ROWS, last[0].request_id, "the ledger holds it as written, no row does")
        return
    if not values_known:
        return
    if all(write.deletes for write in last):
        yield RowFault(Rule.DELETED_BUT_PRESENT, last[0].request_id, "it deleted the row last, and the row is there")
        return
    differs = defaultdict(list)
    for column in sorted({column for write in writes for column in write.sets}):
        setters = [write for write in writes if column in write.sets or column in write.leaves or _resets(write)]
        final = last_of(setters)
        if all(column in write.sets and column in write.differs for write in final):
            differs[final[0].request_id].append(column)
    for request_id, columns in differs.items():
        yield RowFault(Rule.OTHER_VALUES, request_id, ", ".join(columns))


def _resets(write: RowWrite) -> bool:
    return write.deletes or write.whole


@dataclass(frozen=True)
class ColumnSum:
    """What a column must be after all that was added to it.

    Attributes:
        total: The sum.
        terms: How many numbers it is of.
        size: The sum of their absolute values: a limit of the error of approximate columns.
        last: A request that added to it.
    """

    total: Decimal
    terms: int
    size: Decimal
    last: str


def expected_sum(writes: Sequence[RowWrite], column: str) -> ColumnSum | None:
    """The sum of a column that records add to; None if it is not certain.

    What was added before the row was deleted, or before the column was set, does not count.
    """
    adds = [write for write in writes if column in write.adds]
    resets = [write for write in writes if write.deletes or column in write.sets or column in write.leaves]
    terms: list[Decimal | None] = []
    if resets:
        last = last_of(resets)
        if len(last) != 1:
            return None
        (reset,) = last
        if not all(write.precedes(reset) or reset.precedes(write) for write in adds):
            return None
        adds = [write for write in adds if reset.precedes(write)]
        if not reset.deletes:
            terms.append(reset.numbers.get(column))
    terms += [write.adds[column] for write in adds]
    known = [term for term in terms if term is not None]
    if not adds or len(known) < len(terms):
        return None
    return ColumnSum(sum(known, Decimal(0)), len(known), sum(map(abs, known), Decimal(0)), last_of(adds)[0].request_id)


def is_sum(found: Any, expected: ColumnSum) -> bool:
    """Whether a number of the database is the expected sum, as exactly as its type can say."""
    if found is None:
        return not expected.total
    if isinstance(found, float):
        return abs(Decimal(found) - expected.total) <= (expected.size + 1) * Decimal("1e-9")
    number = Decimal(found)
    exponent = number.as_tuple().exponent
    digits = expected.total.as_tuple().exponent
    assert isinstance(exponent, int)
    assert isinstance(digits, int)
    # A column with fewer digits rounds what is added to it, each time.
    rounding = Decimal(0) if digits >= exponent else Decimal(1).scaleb(exponent) / 2 * expected.terms
    return abs(number - expected.total) <= rounding
