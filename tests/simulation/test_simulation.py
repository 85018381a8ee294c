"""A few hundred of the seeds that `make simulate` runs by the thousand, and those that once found a bug."""

from __future__ import annotations

import pytest

from tests.simulation.plan import make_plan
from tests.simulation.run import run, shrink

SEEDS = 600
PARTS = 6

REGRESSION_SEEDS = {
    2104: "withdrawn in doubt, without a fence: its attempt committed after a later request of its key",
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
    seen = set()
    for seed in range(150):
        seen |= set(run(make_plan(seed)).seen)
    assert seen >= {
        *("written", "duplicate", "rejected", "expired", "not confirmed", "not submitted", "cancelled"),
        *("new", "attached", "answered", "rejected as busy", "withdrawn True", "withdrawn False"),
        *("flush in doubt", "asked the ledger", "flush failed", "cut before commit", "cut after commit", "sink breaks"),
        *("requeued", "stalled", "unknown", "locked", "sink breaks after effect"),
        *("died before answers", "answer lost", "submission lost", "result lost", "given up", "continued as new"),
        *("crash", "jump", "reshard", "policy", "flush", "pause", "drain", "callers unreachable"),
        *("cancel", "ended as cancelled", "given up in doubt", "terminate"),
    }


def test_a_failing_plan_is_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without a ledger that remembers, anything that is tried twice is applied twice.
    monkeypatch.setattr("temporal_batching.sinks.memory.judge", lambda *_: None)
    seed = next(seed for seed in range(200) if run(make_plan(seed)).violations)
    plan = make_plan(seed)
    small = shrink(plan)
    assert len(small.steps) < len(plan.steps)
    assert run(small).violations
