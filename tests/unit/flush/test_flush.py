"""A flush gives every request its own outcome and every caller its own answer, whatever the sink does."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pytest
from temporalio.client import Client
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import ActivityEnvironment

from temporal_batching.contract import (
    FlushInput,
    FlushResult,
    JsonObject,
    Outcome,
    OutcomeKind,
    Record,
    RejectCode,
    ReplyTo,
    Requeued,
    Trigger,
    WriteRequest,
)
from temporal_batching.errors import ErrorType, SinkUnavailable
from temporal_batching.flush.activity import Flusher
from temporal_batching.flush.settlement import BatchResult, unavailable, write_batch
from temporal_batching.sinks.base import Batch, Sink
from temporal_batching.sinks.memory import MemorySink
from temporal_batching.wire.submission import load_submission
from tests.support.buffers import caller


class FakeSink(Sink):
    """Calls what the test gives it, and remembers what it was asked."""

    def __init__(self, write: Callable[[Batch], Sequence[Outcome]]) -> None:
        self.written: list[list[str]] = []
        self.settled: list[list[str]] = []
        self.batches: list[Batch] = []
        self._write = write

    async def write(self, batch: Batch) -> Sequence[Outcome]:
        self.written.append([request.request_id for request in batch])
        self.batches.append(batch)
        return self._write(batch)

    async def fence(self, batch: Batch) -> Sequence[Outcome]:
        self.settled.append([request.request_id for request in batch])
        return [Outcome.written() if "committed" in r.request_id else Outcome.expired() for r in batch]


def all_written(batch: Batch) -> Sequence[Outcome]:
    return [Outcome.written() for _ in batch]


def wire(request_id: str, *callers: ReplyTo, expires_at: float | None = None, n: Any = 1) -> JsonObject:
    return {
        "request_id": request_id,
        "key": "",
        "records": [{"table": "t", "values": {"n": n}}],
        "expires_at": expires_at,
        "reply_to": [one.to_wire() for one in callers or [caller(f"w-{request_id}")]],
    }


def flush_of(*submissions: JsonObject, in_doubt: bool = False) -> FlushInput:
    return FlushInput("main", 3, "main-3/7", "count", list(submissions), in_doubt)


class Calls:
    """A Temporal client that notes what it was told to deliver."""

    def __init__(self, fail: Callable[[str], RPCStatusCode | None] = lambda _: None) -> None:
        self.completed: dict[str, Any] = {}
        self.failed: dict[str, ApplicationError] = {}
        self.signalled: list[tuple[str, Any]] = []
        self._fail = fail
        self.client = MagicMock(spec=Client)
        self.client.get_async_activity_handle.side_effect = self._activity
        self.client.get_workflow_handle.side_effect = self._workflow

    def _activity(self, *, workflow_id: str = "", run_id: str = "", activity_id: str = "") -> Any:
        async def complete(body: Any) -> None:
            self._may_fail(workflow_id)
            self.completed[workflow_id] = body

        async def fail(error: ApplicationError) -> None:
            self._may_fail(workflow_id)
            self.failed[workflow_id] = error

        return MagicMock(complete=complete, fail=fail)

    def _workflow(self, workflow_id: str, *, run_id: str | None = None) -> Any:
        async def signal(name: str, arg: Any) -> None:
            self._may_fail(workflow_id)
            self.signalled.append((workflow_id, arg))

        return MagicMock(signal=signal)

    def _may_fail(self, name: str) -> None:
        status = self._fail(name)
        if status is not None:
            raise RPCError("no", status, b"")


async def run(sink: Sink, flush: FlushInput, calls: Calls | None = None) -> FlushResult:
    environment = ActivityEnvironment(client=(calls or Calls()).client)
    activity: Callable[[FlushInput], Awaitable[FlushResult]] = Flusher(sink).flush_batch
    return await environment.run(activity, flush)


async def settle(sink: Sink, flush: FlushInput, **options: Any) -> BatchResult:
    return await write_batch(sink, flush, [load_submission(one) for one in flush.submissions or ()], **options)


def confirmed(result: BatchResult) -> list[tuple[str, str]]:
    """Of each confirmation, the request and its outcome."""
    confirmations = [delivery.confirmation for delivery in result.deliveries]
    return [(one.request_id, str(one.outcome)) for one in confirmations if one is not None]


async def outcomes(sink: Sink, flush: FlushInput) -> list[tuple[str, str]]:
    return confirmed(await settle(sink, flush))


async def test_every_caller_is_told_its_own_outcome() -> None:
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


async def test_a_workflow_gets_one_signal_with_all_its_answers() -> None:
    calls = Calls()
    one, other = ReplyTo("w"), ReplyTo("v")
    await run(FakeSink(all_written), flush_of(wire("a", one), wire("b", other), wire("c", one)), calls)
    told = {name: [body["request_id"] for body in bodies] for name, bodies in calls.signalled}
    assert told == {"w": ["a", "c"], "v": ["b"]}
    assert len(calls.signalled) == 2


async def test_the_first_of_several_callers_has_written_and_the_others_duplicate() -> None:
    calls = Calls()
    await run(FakeSink(all_written), flush_of(wire("a", caller("u"), caller("v"), ReplyTo("w"))), calls)
    assert {name: body["outcome"] for name, body in calls.completed.items()} == {"u": "written", "v": "duplicate"}
    assert [(name, bodies[0]["outcome"]) for name, bodies in calls.signalled] == [("w", "duplicate")]


async def test_all_of_several_callers_hear_of_a_rejection() -> None:
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


async def test_an_attempt_still_under_way_cannot_write_what_was_told_expired() -> None:
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
async def test_before_a_rejection_is_told_the_sink_shuts_the_request_out(code: RejectCode) -> None:
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


async def test_a_rejection_that_was_told_holds_when_the_constraint_no_longer_does() -> None:
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


# A sink that fails


@pytest.mark.parametrize("in_doubt", [True, False])
async def test_a_sink_that_is_down_fails_the_flush_and_nobody_is_told(in_doubt: bool) -> None:
    def write(batch: Batch) -> Sequence[Outcome]:
        raise SinkUnavailable("down", in_doubt=in_doubt)

    calls = Calls()
    with pytest.raises(ApplicationError, match="down") as failure:
        await run(FakeSink(write), flush_of(wire("a"), wire("b", expires_at=1.0)), calls)
    assert failure.value.type == ErrorType.SINK_UNAVAILABLE
    assert failure.value.non_retryable
    assert failure.value.details[0] is in_doubt
    assert (calls.completed, calls.failed) == ({}, {})


@pytest.mark.parametrize("alive", [True, False])
async def test_a_sink_that_cannot_tell_what_became_of_the_late_fails_the_flush(alive: bool) -> None:
    class Silent(FakeSink):
        async def fence(self, batch: Batch) -> Sequence[Outcome]:
            raise SinkUnavailable("gone", in_doubt=not alive)

    submissions = [wire("late", expires_at=1.0), *([wire("a")] if alive else [])]
    with pytest.raises(ApplicationError, match="gone") as failure:
        await settle(Silent(all_written), flush_of(*submissions))
    assert failure.value.details[0] is alive, "in doubt is what was written before, and nothing else was"


async def test_an_exception_that_the_sink_does_not_declare_is_no_verdict_and_stops_no_neighbour(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def write(batch: Batch) -> Sequence[Outcome]:
        if any(r.request_id == "bad" for r in batch):
            raise ZeroDivisionError("a secret value")
        return all_written(batch)

    names = ["a", "b", "bad", "c", "d"]
    sink = FakeSink(write)
    result = await settle(sink, flush_of(*map(wire, names)))
    assert dict(confirmed(result)) == dict.fromkeys(["a", "b", "c", "d"], "written")
    assert result.requeued == [Requeued(2, "the sink failed on it", in_doubt=True)]
    assert (result.counts, result.sink_errors, result.stalled) == ({"written": 4}, 1, False)
    assert sink.settled == [], "what is to be retried is not fenced"
    assert {batch.id for batch in sink.batches} == {"main-3/7"}, "a half is still the same batch to the ledger"
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert "FakeSink.write raised ZeroDivisionError at" in line
    assert "in write" in line
    assert "'bad'" in line
    assert "secret" not in line


async def test_the_order_of_a_key_holds_when_the_sink_fails_on_its_first_request() -> None:
    def write(batch: Batch) -> Sequence[Outcome]:
        if any(r.request_id == "bad" for r in batch):
            raise ZeroDivisionError
        return all_written(batch)

    sink = FakeSink(write)
    submissions = [{**wire(name), "key": key} for name, key in (("bad", "k"), ("x", "other"), ("b", "k"), ("c", ""))]
    result = await settle(sink, flush_of(*submissions))
    assert [request_id for request_id, _ in confirmed(result)] == ["x", "c"]
    assert [(one.position, one.in_doubt) for one in result.requeued] == [(0, True), (2, True)]
    assert ["b"] not in sink.written
    assert all("b" not in part for part in sink.written[1:])


# Past its deadline, in doubt, and a sink that cannot say


class NoFence(Sink):
    """Has no `fence` of its own."""

    async def write(self, batch: Batch) -> Sequence[Outcome]:
        return all_written(batch)


def refuses_the_second_time(batch: Batch) -> Sequence[Outcome]:
    """A store that has the rows, and no memory of who wrote them."""
    if len(batch) > 1:
        raise RuntimeError("after its effect")
    return [Outcome.rejected(RejectCode.CONSTRAINT, "the key is there already")]


class RefusesTheSecondTime(Sink):
    async def write(self, batch: Batch) -> Sequence[Outcome]:
        return refuses_the_second_time(batch)


async def test_without_a_fence_a_request_that_may_be_written_is_not_called_rejected() -> None:
    raised = await settle(RefusesTheSecondTime(), flush_of(wire("a"), wire("b")))
    assert (raised.counts, [one.in_doubt for one in raised.requeued]) == ({}, [True, True])
    later = await settle(RefusesTheSecondTime(), flush_of({**wire("a"), "in_doubt": True}, in_doubt=True))
    assert (later.counts, [one.in_doubt for one in later.requeued]) == ({}, [True])
    certain = await settle(RefusesTheSecondTime(), flush_of(wire("a")))
    assert certain.counts == {"rejected": 1}
    fenced = await settle(FakeSink(refuses_the_second_time), flush_of(wire("a"), wire("committed")))
    assert fenced.counts == {"rejected": 1, "written": 1}


async def test_what_a_raising_call_may_have_written_is_in_doubt_whatever_its_part_answers() -> None:
    def write(batch: Batch) -> Sequence[Outcome]:
        if len(batch) > 1:
            raise RuntimeError("after its effect")
        return [Outcome.retry("locked")]

    result = await settle(FakeSink(write), flush_of(wire("a"), wire("b")))
    assert [one.in_doubt for one in result.requeued] == [True, True]


async def test_what_is_withdrawn_and_cannot_be_fenced_now_keeps_its_key_waiting() -> None:
    class Fails(FakeSink):
        async def fence(self, batch: Batch) -> Sequence[Outcome]:
            raise RuntimeError("no answer")

    sink = Fails(all_written)
    withdrawn = {**wire("a", expires_at=time.time() + 60), "key": "k", "withdrawn": True, "in_doubt": True}
    result = await settle(sink, flush_of(withdrawn, {**wire("b"), "key": "k"}, wire("c"), in_doubt=True))
    assert sink.written == [["c"]]
    assert [one.position for one in result.requeued] == [0, 1]
    assert result.unknown == []


async def test_what_is_withdrawn_in_doubt_is_fenced_or_without_a_fence_written() -> None:
    withdrawn = {**wire("a", expires_at=time.time() + 60), "withdrawn": True, "in_doubt": True}
    sink = FakeSink(all_written)
    fenced = await settle(sink, flush_of(withdrawn, in_doubt=True))
    assert (sink.written, sink.settled, fenced.counts) == ([], [["a"]], {"rejected": 1})
    written = await settle(NoFence(), flush_of(withdrawn, in_doubt=True))
    assert (written.counts, written.unknown) == ({"written": 1}, [])


async def test_in_doubt_and_without_a_fence_nobody_is_told_anything() -> None:
    late = [{**wire(name, expires_at=1.0), flag: True} for name, flag in (("a", "in_doubt"), ("b", "resubmitted"))]
    result = await settle(NoFence(), flush_of(*late, wire("c", expires_at=1.0), wire("d")))
    assert confirmed(result) == [
        ("c", "expired"),
        ("d", "written"),
    ]
    assert (result.unknown, result.requeued, result.counts) == ([0, 1], [], {"expired": 1, "written": 1})


async def test_a_fence_that_fails_on_one_request_costs_nobody_else_its_outcome() -> None:
    class Fragile(FakeSink):
        async def fence(self, batch: Batch) -> Sequence[Outcome]:
            if any(request.request_id == "bad" for request in batch):
                raise ZeroDivisionError
            return await super().fence(batch)

    submissions = [wire(name, expires_at=1.0) for name in ("committed", "bad", "b")]
    result = await settle(Fragile(all_written), flush_of(*submissions))
    assert [outcome for _, outcome in confirmed(result)] == ["written", "expired"]
    assert (result.unknown, result.sink_errors) == ([1], 1)


# Retries


def retry(*names: str, in_doubt: bool = False) -> Callable[[Batch], Sequence[Outcome]]:
    return lambda batch: [
        Outcome.retry("locked", in_doubt=in_doubt) if r.request_id in names else Outcome.written() for r in batch
    ]


@pytest.mark.parametrize("in_doubt", [True, False])
async def test_what_is_to_be_retried_is_neither_told_nor_fenced(in_doubt: bool) -> None:
    calls, sink = Calls(), FakeSink(retry("b", in_doubt=in_doubt))
    result = await run(sink, flush_of(wire("a"), wire("b"), wire("c")), calls)
    assert result == FlushResult({"written": 2}, requeued=[Requeued(1, "locked", in_doubt)])
    assert sorted(calls.completed) == ["w-a", "w-c"]
    assert sink.settled == []


async def test_a_parcel_with_one_request_to_be_retried_goes_back_whole_and_in_doubt() -> None:
    parcel = {
        "request_id": "p",
        "requests": [wire("a"), wire("b")],
        "reply_to": [caller("p").to_wire()],
        "expires_at": None,
    }
    result = await settle(FakeSink(retry("b")), flush_of(wire("x"), parcel))
    assert [delivery.reply_to.workflow_id for delivery in result.deliveries] == ["w-x"]
    assert (result.requeued, result.counts) == ([Requeued(1, "locked", in_doubt=True)], {"written": 1})


async def test_what_shares_an_id_with_what_is_to_be_retried_waits_with_it() -> None:
    """Else both would be `written`: the ledger takes the one for an earlier attempt at the other."""
    parcel = {
        "request_id": "p",
        "requests": [wire("a"), wire("b")],
        "reply_to": [caller("p").to_wire()],
        "expires_at": None,
    }
    result = await settle(FakeSink(retry("b")), flush_of(wire("a"), parcel, wire("c")))
    assert [request_id for request_id, _ in confirmed(result)] == ["c"]
    assert [(one.position, one.in_doubt) for one in result.requeued] == [(0, True), (1, True)]


async def test_in_a_half_of_a_batch_no_request_of_a_parcel_is_told_that_it_was_the_first() -> None:
    parcel = {
        "request_id": "p",
        "requests": [wire("a"), wire("b")],
        "reply_to": [caller("p").to_wire()],
        "expires_at": None,
    }
    flush = replace(flush_of(wire("x"), parcel), halved=True)
    result = await settle(FakeSink(all_written), flush)
    assert result.counts == {"written": 1, "duplicate": 2}


async def test_a_flush_says_whether_anything_got_through() -> None:
    assert (await settle(FakeSink(retry("a", "b")), flush_of(wire("a"), wire("b")))).stalled
    assert not (await settle(FakeSink(retry("a")), flush_of(wire("a"), wire("b")))).stalled
    assert not (await settle(FakeSink(retry("a")), flush_of(wire("a"), wire("b", expires_at=1.0)))).stalled


# Whether anything may be committed


async def test_after_a_part_was_written_a_failure_is_in_doubt_whoever_raises_it() -> None:
    class GoesAway(FakeSink):
        async def fence(self, batch: Batch) -> Sequence[Outcome]:
            raise SinkUnavailable("gone", in_doubt=False)

    sink = GoesAway(lambda batch: [Outcome.rejected(RejectCode.CONSTRAINT, "no") for _ in batch])
    with pytest.raises(ApplicationError) as failure:
        await settle(sink, flush_of(wire("a")))
    assert failure.value.details[0] is True


async def test_what_raised_before_it_was_halved_may_be_committed() -> None:
    def write(batch: Batch) -> Sequence[Outcome]:
        if len(batch) > 1:
            raise ZeroDivisionError("after its effect")
        raise SinkUnavailable("down", in_doubt=False)

    with pytest.raises(ApplicationError) as failure:
        await settle(FakeSink(write), flush_of(wire("a"), wire("b")))
    assert failure.value.details[0] is True


async def test_a_half_that_was_written_before_the_other_failed_is_in_doubt() -> None:
    # The flush used to pass on what the last half knew, and the written half could be told that it expired.
    def write(batch: Batch) -> Sequence[Outcome]:
        if len(batch) > 1:
            raise ZeroDivisionError
        if batch[0].request_id == "b":
            raise SinkUnavailable("down", in_doubt=False)
        return all_written(batch)

    with pytest.raises(ApplicationError) as failure:
        await settle(FakeSink(write), flush_of(wire("a"), wire("b")))
    assert failure.value.details[0] is True


@pytest.mark.parametrize("answers", [0, 3])
async def test_a_wrong_number_of_outcomes_is_the_sinks_mistake_and_no_verdict(
    answers: int, caplog: pytest.LogCaptureFixture
) -> None:
    sink = FakeSink(lambda _: [Outcome.written()] * answers)
    result = await settle(sink, flush_of(wire("a"), wire("b")))
    assert [(one.position, one.in_doubt) for one in result.requeued] == [(0, True), (1, True)]
    assert (result.deliveries, result.sink_errors, result.stalled) == ([], 2, True)
    assert f"FakeSink.write answered {answers} outcomes for 1 requests" in caplog.text


async def test_what_is_no_outcome_is_the_sinks_mistake_and_no_verdict(caplog: pytest.LogCaptureFixture) -> None:
    odd: Any = [Outcome.written(), None, True]
    result = await settle(FakeSink(lambda _: odd), flush_of(wire("a"), wire("b"), wire("c")))
    assert [request_id for request_id, _ in confirmed(result)] == ["a"]
    assert [(one.position, one.in_doubt) for one in result.requeued] == [(1, True), (2, True)]
    assert result.sink_errors == 2
    assert "FakeSink.write answered NoneType where an Outcome belongs" in caplog.text
    nothing: Any = None
    result = await settle(FakeSink(lambda _: nothing), flush_of(wire("a")))
    assert [one.position for one in result.requeued] == [0]
    assert "FakeSink.write answered NoneType instead of outcomes" in caplog.text


# Answers that do not arrive


async def test_an_answer_that_cannot_be_delivered_now_goes_back_to_the_batcher() -> None:
    calls = Calls(lambda name: RPCStatusCode.UNAVAILABLE if name in ("w-b", "v") else None)
    flush = flush_of(wire("a"), wire("b"), wire("c", caller("u"), ReplyTo("v")))
    result = await run(FakeSink(all_written), flush, calls)
    assert result.outcomes == {"written": 3}
    assert [(one.reply_to, one.confirmation and one.confirmation.outcome) for one in result.undelivered] == [
        (caller("w-b"), "written"),
        (ReplyTo("v"), "duplicate"),
    ]
    assert sorted(calls.completed) == ["u", "w-a"]


async def test_a_caller_that_is_gone_counts_as_told() -> None:
    calls = Calls(lambda name: RPCStatusCode.NOT_FOUND)
    assert (await run(FakeSink(all_written), flush_of(wire("a"), wire("b")), calls)).undelivered == []


async def test_a_request_that_nobody_waits_for_is_written_all_the_same() -> None:
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


async def test_an_expiry_is_told_as_one_even_if_the_sinks_clock_is_ahead() -> None:
    ahead = MemorySink(clock=lambda: time.time() + 60)
    soon = wire("a", expires_at=time.time() + 30)
    for _ in range(2):  # the fence of the first attempt says so to the second
        assert await outcomes(ahead, flush_of(soon)) == [("a", "expired")]
    assert ahead.ledger["a"].status == "expired"
