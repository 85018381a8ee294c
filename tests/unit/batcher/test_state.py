"""A run is continued by whichever worker is there: what it does not know is ignored, what it misses has its default."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from temporal_batching.batcher.counts import Counts
from temporal_batching.batcher.state import BatcherState, BufferState
from temporal_batching.contract import FlushResult, JsonObject, Requeued, Withdrawal
from tests.support.buffers import NOW, buffer, parcel, submission, take


def full_state() -> JsonObject:
    """The state of a shard that holds something of every kind."""
    buf = buffer(linger=0, max_batch_size=3, max_in_flight=2)
    for name in ("a", "b", "c"):
        buf.accept(submission(name, resubmitted=name == "b", key="k"), NOW)
    buf.complete(take(buf, NOW).id, FlushResult({"written": 1}, requeued=[Requeued(1), Requeued(2)]), NOW)
    buf.accept(submission("d"), NOW)
    buf.accept(parcel("p", "e", "f", keys=["x", "y"]).packed(), NOW)
    buf.fail(take(buf, NOW).id, NOW, "down", in_doubt=True)
    buf.accept(submission("late", expires_at=NOW), NOW)
    buf.accept(submission("g"), NOW)
    buf.withdraw(Withdrawal("h", "w", "run"), NOW)
    state = BatcherState(buffer=buf.carry(), epoch="3f9a2c71", cycles=7, ledger="L", ledger_asked=True)
    wire: JsonObject = json.loads(json.dumps(state.to_wire()))
    return wire


def test_a_state_survives_its_way() -> None:
    wire = full_state()
    parts = ("pending", "requeued", "outbox", "withdrawals")
    assert all(wire["buffer"][part] for part in parts), "each kind of thing is in it"
    assert json.loads(json.dumps(BatcherState.from_wire(wire).to_wire())) == wire


def objects_in(value: Any) -> list[JsonObject]:
    """Every object of the state, but for what a record holds."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    own = [value] if isinstance(value, dict) and "table" not in value and "account" not in value else []
    return own + [one for part in inner for one in objects_in(part)]


# Names in these are data, or are read strictly where they are set.
FREE = ("outcomes", "batches_by_trigger")


def test_a_field_that_is_not_known_is_ignored_wherever_it_is() -> None:
    wire = full_state()
    expected = json.loads(json.dumps(wire))
    free = [wire["buffer"]["counts"][name] for name in FREE]
    records = [record for one in objects_in(wire) for record in one.get("records", ())]
    for one in objects_in(wire):
        if not any(one is other for other in [*free, *records]):
            one["of_another_version"] = {"n": 1}
    for record in records:  # they are a caller's
        record.pop("of_another_version", None)
        record["values"].pop("of_another_version", None)
    assert json.loads(json.dumps(BatcherState.from_wire(wire).to_wire())) == expected


@pytest.mark.parametrize("name", [name for name in full_state() if name != "buffer"])
def test_a_missing_field_has_its_default(name: str) -> None:
    wire = full_state()
    del wire[name]
    assert getattr(BatcherState.from_wire(wire), name) == getattr(BatcherState(), name)


@pytest.mark.parametrize("name", full_state()["buffer"])
def test_a_missing_field_of_the_buffer_has_its_default(name: str) -> None:
    wire = full_state()
    del wire["buffer"][name]
    assert getattr(BatcherState.from_wire(wire).buffer, name) == getattr(BufferState(), name)


def test_a_counter_that_is_missing_is_zero_and_one_that_is_not_known_is_ignored() -> None:
    state = BatcherState(BufferState(counts=Counts(outcomes=Counter(written=3), retries=2)))
    wire = json.loads(json.dumps(state.to_wire()))
    del wire["buffer"]["counts"]["refused"]
    wire["buffer"]["counts"]["splits"] = 7
    counts = BatcherState.from_wire(wire).buffer.counts
    assert (counts.outcomes, counts.retries, counts.refused) == ({"written": 3}, 2, 0)
    counts.outcomes["expired"] += 1
    assert counts.settled == 4
