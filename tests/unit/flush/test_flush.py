"""A flush gives every request its own outcome and every caller its own confirmation."""

from __future__ import annotations

import time
from collections.abc import Sequence
from unittest.mock import AsyncMock

import pytest
from temporalio.exceptions import ApplicationErrorCategory
from temporalio.service import RPCStatusCode
from temporalio.testing import ActivityEnvironment

from temporal_batching.contract import (
    FlushInput,
    FlushResult,
    Outcome,
    OutcomeKind,
    Record,
    RejectCode,
    ReplyTo,
    Trigger,
    WriteRequest,
)
from temporal_batching.errors import ErrorType
from temporal_batching.flush.activity import Flusher
from temporal_batching.flush.settlement import unavailable
from temporal_batching.sinks.base import Batch
from temporal_batching.sinks.memory import MemorySink
from tests.support.buffers import caller
from tests.support.flushes import Calls, FakeSink, all_written, confirmed, flush_of, outcomes, run, settle, wire


async def test_every_caller_receives_its_own_outcome() -> None:
    def write(batch: Batch) -> Sequence[Outcome]:
        return [Outcome.written(), Outcome.duplicate(), Outcome.rejected(RejectCode.CONSTRAINT, "odd")]

    calls = Calls()
    result = await run(FakeSink(write), flush_of(wire("a"), wire("b"), wire("c"), wire("d", expires_at=1.0)), calls)
    assert result == FlushResult({"written": 1, "duplicate": 1, "rejected": 1, "expired": 1}, [])
    assert {name: body["outcome"] for name, body in calls.completed.items()} == {"w-a": "written", "w-b": "duplicate"}
    assert {name: error.type for name, error in calls.failed.items()} == {
        "w-c": ErrorType.REJECTED,
        "w-d": ErrorType.EXPIRED,
    }
    assert all(error.non_retryable for error in calls.failed.values())
    assert calls.failed["w-c"].details[0]["code"] == "constraint"
    assert calls.failed["w-c"].message == "odd"
    body = calls.completed["w-a"]
    assert (body["batch_id"], body["batch_size"], body["shard"]) == ("main-3/7", 4, 3)
    assert body["settled_at"].endswith("+00:00")


async def test_the_sink_sees_the_batch_as_the_shard_formed_it() -> None:
    sink = FakeSink(all_written)
    await run(sink, flush_of(wire("a"), wire("b")))
    (batch,) = sink.batches
    assert (batch.id, batch.shard, batch.trigger) == ("main-3/7", 3, Trigger.COUNT)
    assert [r.request_id for r in batch] == ["a", "b"]


async def test_a_workflow_gets_one_signal_with_all_its_confirmations() -> None:
    calls = Calls()
    one, other = ReplyTo("w"), ReplyTo("v")
    await run(FakeSink(all_written), flush_of(wire("a", one), wire("b", other), wire("c", one)), calls)
    received = {name: [body["request_id"] for body in bodies] for name, bodies in calls.signalled}
    assert received == {"w": ["a", "c"], "v": ["b"]}
    assert len(calls.signalled) == 2


async def test_the_first_of_several_callers_has_written_and_the_others_duplicate() -> None:
    calls = Calls()
    await run(FakeSink(all_written), flush_of(wire("a", caller("u"), caller("v"), ReplyTo("w"))), calls)
    assert {name: body["outcome"] for name, body in calls.completed.items()} == {"u": "written", "v": "duplicate"}
    assert [(name, bodies[0]["outcome"]) for name, bodies in calls.signalled] == [("w", "duplicate")]


async def test_all_of_several_callers_receive_a_rejection() -> None:
    calls = Calls()
    sink = FakeSink(lambda batch: [Outcome.rejected(RejectCode.TYPE, "no") for _ in batch])
    await run(sink, flush_of(wire("a", caller("u"), caller("v"))), calls)
    assert sorted(calls.failed) == ["u", "v"]


async def test_a_parcel_gets_one_receipt_with_what_differs_from_written() -> None:
    parcel = {
        "request_id": "p",
        "requests": [wire("a"), wire("b"), wire("c")],
        "expires_at": None,
        "reply_to": [caller("u").to_wire(), caller("v").to_wire()],
    }

    def write(batch: Batch) -> Sequence[Outcome]:
        return [Outcome.rejected(RejectCode.TYPE, "no") if r.request_id == "b" else Outcome.written() for r in batch]

    calls = Calls()
    result = await run(FakeSink(write), flush_of(wire("x"), parcel), calls)
    assert result.outcomes == {"written": 3, "rejected": 1}
    assert calls.completed["u"]["others"] == {"1": {"kind": "rejected", "code": "type", "reason": "no"}}
    assert {i: o["kind"] for i, o in calls.completed["v"]["others"].items()} == {
        "0": OutcomeKind.DUPLICATE,
        "1": OutcomeKind.REJECTED,
        "2": OutcomeKind.DUPLICATE,
    }
    assert calls.completed["u"]["batch_size"] == 4


# Deadlines


async def test_what_is_past_its_deadline_never_reaches_the_sinks_write() -> None:
    sink = FakeSink(all_written)
    late, soon = time.time() - 1, time.time() + 600
    flush = flush_of(wire("late", expires_at=late), wire("a", expires_at=soon), wire("b"))
    assert await outcomes(sink, flush) == [("late", "expired"), ("a", "written"), ("b", "written")]
    assert (sink.written, sink.settled) == ([["a", "b"]], [["late"]])


async def test_the_sink_has_the_last_word_on_what_is_late() -> None:
    sink = FakeSink(all_written)
    flush = flush_of(wire("late-committed", expires_at=1.0), wire("a"), wire("late", expires_at=1.0), in_doubt=True)
    assert await outcomes(sink, flush) == [("late-committed", "written"), ("a", "written"), ("late", "expired")]
    assert (sink.written, sink.settled) == ([["a"]], [["late-committed", "late"]])


async def test_an_attempt_in_flight_cannot_write_what_was_confirmed_as_expired() -> None:
    now = 1_000.0
    sink = MemorySink(clock=lambda: now)
    late = wire("a", expires_at=900.0)
    assert await outcomes(sink, flush_of(late, in_doubt=True)) == [("a", "expired")]
    zombie = Batch([WriteRequest("a", [], expires_at=9_999.0)], id="main-3/7")
    assert [outcome.kind for outcome in await sink.write(zombie)] == ["expired"]
    assert sink.rows == {}


async def test_what_the_sink_itself_found_late_is_expired() -> None:
    times = iter([100.0, 300.0, 300.0])
    sink = FakeSink(lambda batch: [Outcome.expired() for _ in batch])
    result = await settle(sink, flush_of(wire("a", expires_at=200.0)), clock=lambda: next(times))
    assert confirmed(result) == [("a", "expired")]


# A rejection is final


RETRYABLE_CODES = sorted(set(RejectCode) - {RejectCode.INVALID, RejectCode.ID_REUSED})


@pytest.mark.parametrize("code", RETRYABLE_CODES)
async def test_before_a_rejection_is_confirmed_the_sink_fences_the_request(code: RejectCode) -> None:
    sink = FakeSink(
        lambda batch: [Outcome.rejected(code, "no") if "bad" in r.request_id else Outcome.written() for r in batch]
    )
    assert await outcomes(sink, flush_of(wire("bad-1"), wire("b"), wire("bad-2"))) == [
        ("bad-1", "rejected"),
        ("b", "written"),
        ("bad-2", "rejected"),
    ]
    assert sink.settled == [["bad-1", "bad-2"]]


@pytest.mark.parametrize("code", [RejectCode.INVALID, RejectCode.ID_REUSED])
async def test_a_rejection_that_cannot_turn_out_otherwise_costs_no_question(code: RejectCode) -> None:
    sink = FakeSink(lambda batch: [Outcome.rejected(code, "no") for _ in batch])
    assert await outcomes(sink, flush_of(wire("a"))) == [("a", "rejected")]
    assert sink.settled == []


async def test_a_rejected_request_that_an_earlier_attempt_wrote_is_written() -> None:
    sink = FakeSink(lambda batch: [Outcome.rejected(RejectCode.CONSTRAINT, "no") for _ in batch])
    assert await outcomes(sink, flush_of(wire("committed"))) == [("committed", "written")]


async def test_a_confirmed_rejection_holds_when_the_constraint_no_longer_does() -> None:
    # Attempt and answers are through, the result is lost: the same batch comes again, and used to be written then.
    reason: str | None = "no parent yet"
    sink = MemorySink(reject=lambda _: reason)
    assert await outcomes(sink, flush_of(wire("a"))) == [("a", "rejected")]
    reason = None
    assert await outcomes(sink, flush_of(wire("a"), in_doubt=True)) == [("a", "rejected")]
    assert sink.rows == {}
    another_batch = FlushInput("main", 3, "main-3/8", "count", [wire("a")])
    assert await outcomes(sink, another_batch) == [("a", "written")], "its caller may send it anew"


async def test_one_id_twice_in_a_batch_is_written_once_whichever_way_the_sink_is_asked() -> None:
    parcel = {
        "request_id": "p",
        "requests": [wire("a"), wire("b")],
        "reply_to": [caller("p").to_wire()],
        "expires_at": None,
    }
    result = await settle(FakeSink(all_written), flush_of(wire("a"), parcel))
    assert result.counts == {"written": 2, "duplicate": 1}
    late = {**parcel, "requests": [wire("committed")], "expires_at": 1.0}
    result = await settle(FakeSink(all_written), flush_of(wire("committed"), late, in_doubt=True))
    assert result.counts == {"written": 1, "duplicate": 1}


# Answers that do not arrive


async def test_a_confirmation_that_cannot_be_delivered_now_is_left_to_the_shard() -> None:
    calls = Calls(lambda name: RPCStatusCode.UNAVAILABLE if name in ("w-b", "v") else None)
    flush = flush_of(wire("a"), wire("b"), wire("c", caller("u"), ReplyTo("v")))
    result = await run(FakeSink(all_written), flush, calls)
    assert result.outcomes == {"written": 3}
    assert [(one.reply_to, one.confirmation and one.confirmation.outcome) for one in result.undelivered] == [
        (caller("w-b"), "written"),
        (ReplyTo("v"), "duplicate"),
    ]
    assert sorted(calls.completed) == ["u", "w-a"]


async def test_a_caller_that_is_gone_counts_as_notified() -> None:
    calls = Calls(lambda name: RPCStatusCode.NOT_FOUND)
    assert (await run(FakeSink(all_written), flush_of(wire("a"), wire("b")), calls)).undelivered == []


async def test_a_request_without_a_reply_address_is_written_too() -> None:
    silent = {**wire("a"), "reply_to": []}
    assert await run(FakeSink(all_written), flush_of(silent)) == FlushResult({"written": 1}, [])


async def test_a_quick_flush_sends_no_heartbeat() -> None:
    environment = ActivityEnvironment(client=Calls().client)
    environment.on_heartbeat = AsyncMock(side_effect=AssertionError("a heartbeat"))
    await environment.run(Flusher(FakeSink(all_written)).flush_batch, flush_of(wire("a")))


def test_an_outage_is_logged_once_and_in_one_line() -> None:
    """By the shard; the SDK logs what is benign at level debug only."""
    failure = unavailable("no connection\n  is the server up?", in_doubt=False)
    assert failure.category is ApplicationErrorCategory.BENIGN
    assert failure.message == "no connection is the server up?"


def test_a_batch_has_its_requests() -> None:
    requests = [WriteRequest("r", [Record("t", {"n": 1})])]
    assert list(Batch(requests).requests) == requests


async def test_an_expiry_is_confirmed_as_one_even_if_the_sinks_clock_is_ahead() -> None:
    ahead = MemorySink(clock=lambda: time.time() + 60)
    soon = wire("a", expires_at=time.time() + 30)
    for _ in range(2):  # the fence of the first attempt says so to the second
        assert await outcomes(ahead, flush_of(soon)) == [("a", "expired")]
    assert ahead.ledger["a"].status == "expired"
