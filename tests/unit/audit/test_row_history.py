"""A row is what its last record left of it: whatever is known of the order, no sound row is blamed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_batching.audit.row_history import Period, RowWrite, expected_sum, is_sum, judge_row, last_of
from temporal_batching.audit.rules import Rule

COLUMNS = ("a", "b", "total")


@dataclass(frozen=True)
class Step:
    """A record that was applied: what it does, and what the histories show of its time."""

    kind: str
    values: dict[str, int]
    number: int
    caller: str
    key: str
    early: float
    late: float
    same_request: bool = False


@dataclass
class Row:
    """A row of a table with the rule ``conflict="add", add=["total"], update=["a"]``, or of one with updates."""

    values: dict[str, int] | None = None
    steps: list[Step] = field(default_factory=list)

    def apply(self, step: Step) -> bool:
        """Applies a step; False if it is rejected."""
        if step.kind == "delete":
            self.values = None
        elif step.kind == "update":
            if self.values is None:
                return False
            self.values |= step.values
        elif step.kind == "insert":
            if self.values is not None:
                return False
            self.values = {"a": 0, "b": 0, "total": 0} | step.values
        elif self.values is None:
            self.values = {"a": 0, "b": 0, "total": 0} | step.values
        elif step.kind == "upsert":
            self.values |= {name: value for name, value in step.values.items() if name == "a"}
        else:
            self.values["total"] += step.values.get("total", 0)
            self.values |= {name: value for name, value in step.values.items() if name == "a"}
        self.steps.append(step)
        return True


_values = st.dictionaries(st.sampled_from(COLUMNS), st.integers(1, 5), min_size=1)
_kinds = st.sampled_from(["insert", "upsert", "add", "add", "update", "delete"])
_spread = st.floats(0, 3)
_steps = st.lists(
    st.builds(
        Step, _kinds, _values, st.just(0), st.sampled_from("uvw"), st.sampled_from(["", "k", "l"]), _spread, _spread,
        st.booleans(),
    ),
    min_size=1,
    max_size=9,
)  # fmt: skip


def applied(steps: Sequence[Step]) -> Row:
    row = Row()
    for number, step in enumerate(steps):
        row.apply(replace(step, number=number))
    return row


def writes_of(row: Row, found: dict[str, int] | None) -> list[RowWrite]:
    """The records as an audit knows them: each was sent before it was applied, and confirmed after it."""
    writes: list[RowWrite] = []
    request, position = "", 0
    latest: dict[Any, float] = {}
    for step in row.steps:
        if step.same_request and writes:
            position, period = position + 1, writes[-1].period
        else:
            request, position = f"r{step.number}", 0
            begin, end = step.number - step.early, step.number + step.late
            # A caller sends and hears, and a key's requests arrive, in the order in which they are applied.
            period = Period({"server": begin}, {"server": end})
            for clock in (("caller", step.caller), ("key", step.key)):
                if clock != ("key", ""):
                    start = max(begin, latest.get(clock, begin))
                    period.begins[clock], period.ends[clock] = start, start
                    latest[clock] = start + 0.001
        adds: dict[str, Decimal | None] = {}
        sets = set(step.values) if step.kind in ("insert", "update") else {"a"} & set(step.values)
        if step.kind == "add":
            adds = {"total": Decimal(step.values.get("total", 0))}
        if step.kind == "delete":
            sets = set()
        differs = [name for name, value in step.values.items() if found is not None and found[name] != value]
        writes.append(
            RowWrite(
                request, position, period,
                deletes=step.kind == "delete", whole=step.kind in ("insert", "upsert", "add"), sets=sets,
                leaves=set(step.values) - sets - set(adds) if step.kind != "delete" else (), adds=adds,
                numbers={name: Decimal(value) for name, value in step.values.items() if name in sets},
                row="1" if found is not None else "", differs=differs, found=found or {},
            )
        )  # fmt: skip
    return writes


def faults(writes: Sequence[RowWrite], **options: Any) -> list[Rule]:
    options = {"may_be_gone": False, "values_known": True, **options}
    return [fault.rule for fault in judge_row(writes, **options)]


@given(_steps)
def test_a_row_that_was_kept_is_accepted_whatever_is_known_of_the_order(steps: list[Step]) -> None:
    row = applied(steps)
    if not row.steps:
        return
    writes = writes_of(row, row.values)
    assert row.steps[-1].number in {int(write.request_id[1:]) + write.position for write in last_of(writes)} or any(
        step.same_request for step in row.steps
    )
    assert faults(writes) == []
    expected = expected_sum(writes, "total")
    if expected is not None and row.values is not None:
        assert is_sum(row.values["total"], expected)


@given(_steps, st.integers(1, 4))
def test_in_a_certain_order_every_damage_is_found(steps: list[Step], damage: int) -> None:
    row = applied([replace(step, early=0.1, late=0.1, same_request=False) for step in steps])
    if not row.steps:
        return
    last = row.steps[-1]
    if row.values is None:
        assert faults(writes_of(row, {"a": 0, "b": 0, "total": 0})) == [Rule.DELETED_BUT_PRESENT]
        return
    assert faults(writes_of(row, None)) == [Rule.LEDGER_WITHOUT_ROWS]
    assert faults(writes_of(row, None), may_be_gone=True) == []
    if last.kind in ("insert", "update"):
        column = min(last.values)
        damaged = {**row.values, column: row.values[column] + damage}
        assert faults(writes_of(row, damaged)) == [Rule.OTHER_VALUES]
        assert faults(writes_of(row, damaged), values_known=False) == []
    if all(step.kind == "add" for step in row.steps):
        expected = expected_sum(writes_of(row, row.values), "total")
        assert expected is not None
        assert is_sum(row.values["total"], expected)
        assert not is_sum(row.values["total"] + damage, expected)


def write(request_id: str, begin: float = 0, end: float = 0, **options: Any) -> RowWrite:
    return RowWrite(request_id, 0, Period({"server": begin}, {"server": end}), **options)


def test_what_follows_a_delete_starts_a_sum_anew_and_what_may_be_before_or_after_it_leaves_it_open() -> None:
    first, gone = write("r1", 0, 1, adds={"n": Decimal(5)}), write("r2", 2, 3, deletes=True)
    second, unclear = write("r3", 4, 5, adds={"n": Decimal(2)}), write("r4", 0, 9, adds={"n": Decimal(1)})
    expected = expected_sum([first, gone, second], "n")
    assert expected is not None
    assert (int(expected.total), expected.last) == (2, "r3")
    assert expected_sum([first, gone, second, unclear], "n") is None
    assert expected_sum([write("r5", 0, 1, adds={"n": None})], "n") is None
    updated = write("r6", 6, 7, sets=["n"], numbers={"n": Decimal(10)})
    after = write("r7", 8, 9, adds={"n": Decimal(1)})
    added = expected_sum([first, updated, after], "n")
    assert added is not None
    assert added.total == 11
    assert expected_sum([first, updated], "n") is None, "nothing was added since"


@pytest.mark.parametrize(
    ("found", "terms", "holds"),
    [
        (3, ["1", "2"], True), (4, ["1", "2"], False), (Decimal("3.00"), ["1", "2"], True),
        (0.1 + 0.2, ["0.1", "0.2"], True), (0.31, ["0.1", "0.2"], False), (None, ["0"], True), (None, ["1"], False),
        (Decimal("0.02"), ["0.005", "0.005"], True), (Decimal("0.03"), ["0.005", "0.005"], False),
        (10**18 + 1, [str(10**18), "1"], True), (10**18, [str(10**18), "1"], False),
    ],
)  # fmt: skip
def test_a_sum_is_as_exact_as_its_column(found: Any, terms: list[str], holds: bool) -> None:
    expected = expected_sum([write(f"r{n}", adds={"n": Decimal(term)}) for n, term in enumerate(terms)], "n")
    assert expected is not None
    assert is_sum(found, expected) is holds
