"""Some of the seeds that `make simulate` runs by the thousand, and those that once found a bug."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from temporal_batching import Batch, MemorySink, Outcome, Record
from temporal_batching.audit.rules import Rule
from temporal_batching.batcher.batches import Batches, PendingBatch
from temporal_batching.batcher.lanes import Lanes, Turn
from temporal_batching.sinks.memory_tables import MemoryTables
from temporal_batching.wire.submission import Submission
from tests.simulation.plan import OVERLAPPING, make_plan
from tests.simulation.run import run, shrink

SEEDS = 180
PARTS = 6

REGRESSION_SEEDS = {
    2104: "withdrawn in doubt, without a fence: its attempt committed after a later request of its key",
    18627: "told expired, by an attempt that was over and had not seen that the next one wrote it",
    35248: "expired, though a call that raised had written it before it was asked about by itself",
    42610: "withdrawn in doubt, and written by its attempt between a later request of its key and its fence",
    191: "told expired, though the batch was written before the ledger could not be asked",
    1532: "written, twice in one batch, and each told it was the first",
    1713: "told expired by a repetition, after the answer `written` was given up",
    3960: "written, though another of its id in the batch, unknown by now, was told so before",
    3604: "a repetition refused for a limit lowered since",
    4754: "told rejected, and written by an attempt still under way",
    5133: "a repetition of what is in flight, taken for the request that another caller brought under its id",
    5717: "told rejected, and written when the result was lost and the batch tried again",
    38256: "told it was withdrawn, by what another call of its workflow took back, though it was written",
}
"""Each breaks a promise if its fix is taken out again."""


@pytest.mark.parametrize("part", range(PARTS))
def test_no_schedule_breaks_a_promise(part: int) -> None:
    failed = {}
    for seed in range(part, SEEDS, PARTS):
        report = run(make_plan(seed))
        if report.violations:
            failed[seed] = [str(violation) for violation in report.violations]
    assert failed == {}, "again: python -m tests.simulation --seed N --trace"


@pytest.mark.parametrize("seed", REGRESSION_SEEDS)
def test_what_once_broke_a_promise_no_longer_does(seed: int) -> None:
    assert run(make_plan(seed)).violations == []


def test_a_seed_always_does_the_same() -> None:
    plan = make_plan(7)
    assert plan == make_plan(7)
    assert run(plan, trace=True).trace == run(plan, trace=True).trace


def test_the_schedules_reach_what_can_go_wrong() -> None:
    missing = {
        *("written", "duplicate", "rejected", "expired", "not confirmed", "not submitted", "cancelled"),
        *("new", "attached", "answered", "rejected as busy", "withdrawn True", "withdrawn False"),
        *("flush in doubt", "asked the ledger", "flush failed", "cut before commit", "cut after commit", "sink breaks"),
        *("requeued", "stalled", "unknown", "locked", "sink breaks after effect"),
        *("died before answers", "answer lost", "submission lost", "result lost", "given up", "continued as new"),
        *("crash", "jump", "reshard", "policy", "flush", "pause", "drain", "callers unreachable"),
        *("cancel", "ended as cancelled", "given up in doubt", "terminate", "overlapping", "half"),
    }
    for seed in range(150):
        missing -= set(run(make_plan(seed)).seen)
        if not missing:
            return
    pytest.fail(f"not reached: {missing}")


def _without_keys(submission: Submission, most: int) -> Any:
    return SimpleNamespace(id=submission.id, keys=submission.keys[:most], has_many_keys=False)


def _holds(most: int) -> Callable[[pytest.MonkeyPatch], None]:
    """Batches in flight, or requeued, block so many of a request's keys."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("close", "open"):
            whole = getattr(Lanes, name)
            monkeypatch.setattr(Lanes, name, lambda self, one, whole=whole: whole(self, _without_keys(one, most)))

    return patch


def _waits_for_its_first_key(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Lanes.add

    def add(self: Lanes, submission: Submission, *, id_in_batch: bool) -> Turn:
        turn = whole(self, _without_keys(submission, 1), id_in_batch=id_in_batch)
        turn.submission = submission
        return turn

    monkeypatch.setattr(Lanes, "add", add)


def _requeued_blocks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    requeue, start = Batches.requeue, Batches.start

    def let_go(self: Batches, batch: PendingBatch) -> None:
        requeue(self, batch)
        for submission in batch.submissions:
            self._lanes.open(submission)

    def hold_again(self: Batches, batch: PendingBatch, now: float, *, probe: bool) -> PendingBatch:
        for submission in batch.submissions if batch in self.requeued else ():
            self._lanes.close(submission)
        return start(self, batch, now, probe=probe)

    monkeypatch.setattr(Batches, "requeue", let_go)
    monkeypatch.setattr(Batches, "start", hold_again)
    monkeypatch.setattr(Lanes, "_forget_if_empty", lambda *_: None)


BROKEN = {
    "a batch blocks no key": _holds(0),
    "a parcel in a batch blocks its first key alone": _holds(1),
    "a parcel waits for its first key alone": _waits_for_its_first_key,
    "what is requeued blocks nothing": _requeued_blocks_nothing,
}


@pytest.mark.parametrize("variant", BROKEN)
def test_batches_that_overlap_out_of_order_are_found(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    BROKEN[variant](monkeypatch)
    rules: set[str] = set()
    for seed in range(0, 100 * OVERLAPPING, OVERLAPPING):
        try:
            rules |= {violation.rule for violation in run(make_plan(seed)).violations}
        except KeyError:  # two of one id are in batches, which the buffer does not allow for
            rules.add("crash")
        if Rule.OUT_OF_ORDER in rules:
            return
    pytest.fail(f"only {rules} were found")


def _reversed_batches(patch: pytest.MonkeyPatch) -> None:
    """The sink applies the requests of a batch in another order."""
    write = MemorySink.write

    async def backwards(self: MemorySink, batch: Batch) -> Sequence[Outcome]:
        return list(reversed(await write(self, Batch(list(reversed(list(batch))), id=batch.id))))

    patch.setattr(MemorySink, "write", backwards)


def _adds_again(patch: pytest.MonkeyPatch) -> None:
    """What is tried twice is applied twice."""
    patch.setattr("temporal_batching.sinks.memory.judge", lambda *_: None)


def _overwrites(patch: pytest.MonkeyPatch) -> None:
    """An addition replaces the number in the row."""
    patch.setattr("temporal_batching.sinks.memory_tables._add", lambda column, there, value: value)


def _skips(operation: str) -> Callable[[pytest.MonkeyPatch], None]:
    """An operation is confirmed, and not carried out."""

    def skip(patch: pytest.MonkeyPatch) -> None:
        apply = MemoryTables.apply

        def pretend(self: MemoryTables, record: Record, values: dict[str, Any]) -> Any:
            return values if record.operation == operation else apply(self, record, values)

        patch.setattr(MemoryTables, "apply", pretend)

    return skip


@pytest.mark.parametrize(
    ("broken", "rules"),
    [
        (_reversed_batches, {"other values", "deleted but present", "out of order"}),
        (_adds_again, {"other sum", "applied twice"}),
        (_overwrites, {"other sum"}),
        (_skips("delete"), {"deleted but present"}),
        (_skips("update"), {"other values"}),
    ],
)
def test_what_is_broken_on_purpose_is_found(
    broken: Callable[[pytest.MonkeyPatch], None], rules: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch)
    missing = set(rules)
    for seed in range(60):
        missing -= {str(violation.rule) for violation in run(make_plan(seed)).violations}
        if not missing:
            return
    pytest.fail(f"not found: {missing}")


def test_a_failing_plan_is_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without a ledger that remembers, anything that is tried twice is applied twice.
    monkeypatch.setattr("temporal_batching.sinks.memory.judge", lambda *_: None)
    seed = next(seed for seed in range(200) if run(make_plan(seed)).violations)
    plan = make_plan(seed)
    small = shrink(plan)
    assert len(small.steps) < len(plan.steps)
    assert run(small).violations
