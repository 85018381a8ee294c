"""Each rule of an audit finds what it is for, and nothing else."""

from __future__ import annotations

import pytest

from temporal_batching.audit.order import Arrival
from temporal_batching.audit.rules import (
    Call,
    CallResult,
    Rule,
    StoredRecord,
    Violation,
    check_tombstone,
    find_violations,
)

STORED = StoredRecord("r", "A", 0)


def call(result: CallResult | None, content: str = "A", caller: str = "w", records: int = 1) -> Call:
    return Call(caller, "r", content, records, result)


@pytest.mark.parametrize("result", list(CallResult))
def test_a_result_that_is_true_is_no_violation(result: CallResult) -> None:
    present = result in {CallResult.WRITTEN, CallResult.DUPLICATE, CallResult.NOT_CONFIRMED}
    records = [STORED] if present else []
    assert find_violations([call(result)], records, [record.request_id for record in records]) == []


@pytest.mark.parametrize(
    ("calls", "records", "ledger", "rule"),
    [
        ([call(CallResult.WRITTEN)], [], [], Rule.WRITTEN_BUT_MISSING),
        ([call(CallResult.DUPLICATE)], [], [], Rule.WRITTEN_BUT_MISSING),
        (
            [call(CallResult.WRITTEN, "B"), call(CallResult.NOT_CONFIRMED)],
            [STORED],
            ["r"],
            Rule.WRITTEN_BUT_MISSING,
        ),
        ([call(CallResult.EXPIRED)], [STORED], ["r"], Rule.NOT_WRITTEN_BUT_PRESENT),
        ([call(CallResult.REJECTED)], [STORED], ["r"], Rule.NOT_WRITTEN_BUT_PRESENT),
        ([call(CallResult.NOT_SUBMITTED)], [STORED], ["r"], Rule.NOT_WRITTEN_BUT_PRESENT),
        (
            [call(CallResult.EXPIRED), call(CallResult.WRITTEN, "B")],
            [STORED],
            ["r"],
            Rule.NOT_WRITTEN_BUT_PRESENT,
        ),
        ([call(CallResult.WRITTEN)], [STORED, STORED], ["r"], Rule.APPLIED_TWICE),
        ([call(CallResult.NOT_CONFIRMED, records=2)], [STORED], ["r"], Rule.INCOMPLETE),
        (
            [call(CallResult.WRITTEN), call(CallResult.WRITTEN, "B")],
            [STORED, StoredRecord("r", "B", 0)],
            ["r"],
            Rule.MIXED_CONTENTS,
        ),
        ([], [STORED], ["r"], Rule.UNEXPECTED_ROW),
        ([call(CallResult.WRITTEN)], [StoredRecord("r", "B", 0)], ["r"], Rule.UNEXPECTED_ROW),
        ([call(CallResult.WRITTEN)], [STORED], [], Rule.ROWS_WITHOUT_LEDGER),
        ([call(CallResult.NOT_CONFIRMED)], [], ["r"], Rule.LEDGER_WITHOUT_ROWS),
        ([call(None)], [], [], Rule.NO_RESULT),
        (
            [call(CallResult.WRITTEN), call(CallResult.WRITTEN, caller="v")],
            [STORED],
            ["r"],
            Rule.CONFIRMED_TWICE,
        ),
    ],
)
def test_what_is_not_true_is_found(
    calls: list[Call], records: list[StoredRecord], ledger: list[str], rule: Rule
) -> None:
    assert rule in {violation.rule for violation in find_violations(calls, records, ledger)}


def test_what_another_call_explains_is_no_violation() -> None:
    for other in (CallResult.WRITTEN, CallResult.DUPLICATE, CallResult.NOT_CONFIRMED, CallResult.CANCELLED):
        assert find_violations([call(CallResult.EXPIRED), call(other, caller="v")], [STORED], ["r"]) == []


@pytest.mark.parametrize(
    ("status", "results", "broken"),
    [
        ("rejected", [CallResult.REJECTED], False),
        ("expired", [CallResult.EXPIRED], False),
        ("expired", [CallResult.REJECTED], True),
        ("rejected", [CallResult.EXPIRED, CallResult.EXPIRED], True),
        ("rejected", [CallResult.EXPIRED, CallResult.REJECTED], False),
        # The tombstone may be for a caller that got no outcome; and other rules are for one that got `written`.
        ("expired", [CallResult.REJECTED, CallResult.NOT_CONFIRMED], False),
        ("expired", [CallResult.WRITTEN], False),
        ("expired", [], False),
    ],
)
def test_a_tombstone_has_the_outcome_that_a_caller_got(status: str, results: list[CallResult], broken: bool) -> None:
    found = list(check_tombstone("r", status, results))
    assert [violation.rule for violation in found] == [Rule.OTHER_OUTCOME] * broken


def test_order_is_compared_by_key_and_shard() -> None:
    def found(*arrivals: Arrival) -> list[Violation]:
        calls = [Call("w", name, "A", 1, CallResult.WRITTEN) for name in "rs"]
        return find_violations(calls, [StoredRecord("r", "A", 0), StoredRecord("s", "A", 0)], "rs", arrivals)

    first, second = Arrival(0, "r", "k"), Arrival(0, "s", "k")
    assert found(first, second) == []
    assert [violation.rule for violation in found(second, first)] == [Rule.OUT_OF_ORDER]
    assert found(Arrival(0, "s", ""), Arrival(0, "r", "")) == []
    assert found(Arrival(0, "s", "k"), Arrival(0, "r", "other")) == []
    assert found(Arrival(0, "s", "k"), Arrival(1, "r", "k")) == []
    assert found(second, first, second) == [], "its second arrival may be the one that was applied"
