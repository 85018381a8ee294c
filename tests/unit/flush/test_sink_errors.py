"""Whatever a sink raises or returns: what may be written is not called unwritten, and neighbours are written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest
from temporalio.exceptions import ApplicationError

from temporal_batching.contract import (
    JsonObject,
    Outcome,
    Record,
    RejectCode,
    Requeued,
    Returned,
    WriteRequest,
)
from temporal_batching.errors import ErrorType, SinkUnavailable
from temporal_batching.policy import MAX_MESSAGE_RETURNED
from temporal_batching.sinks.base import Batch, Sink
from temporal_batching.wire.encoding import encode_request
from tests.support.buffers import caller
from tests.support.flushes import Calls, FakeSink, all_written, asking, confirmed, flush_of, run, settle, wire

# A sink that fails


@pytest.mark.parametrize("in_doubt", [True, False])
async def test_a_sink_that_is_down_fails_the_flush_and_no_caller_is_notified(in_doubt: bool) -> None:
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


async def test_in_doubt_and_without_a_fence_no_caller_is_notified() -> None:
    late = [{**wire(name, expires_at=1.0), flag: True} for name, flag in (("a", "in_doubt"), ("b", "resubmitted"))]
    result = await settle(NoFence(), flush_of(*late, wire("c", expires_at=1.0), wire("d")))
    assert confirmed(result) == [
        ("c", "expired"),
        ("d", "written"),
    ]
    assert (result.unknown, result.requeued, result.counts) == ([0, 1], [], {"expired": 1, "written": 1})


async def test_a_fence_that_fails_on_one_request_costs_no_other_its_outcome() -> None:
    class Fragile(FakeSink):
        async def fence(self, batch: Batch) -> Sequence[Outcome]:
            if any(request.request_id == "bad" for request in batch):
                raise ZeroDivisionError
            return await super().fence(batch)

    submissions = [wire(name, expires_at=1.0) for name in ("committed", "bad", "b")]
    result = await settle(Fragile(all_written), flush_of(*submissions))
    assert [outcome for _, outcome in confirmed(result)] == ["written", "expired"]
    assert (result.unknown, result.sink_errors) == ([1], 1)


# Whether anything may be committed


async def test_after_a_part_was_written_a_failure_is_in_doubt_wherever_it_comes_from() -> None:
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
    # The flush used to pass on what the last half knew, and the written half could be confirmed as expired.
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


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ([], "one element is needed for each of the 1 records"),
        ([{"note": 1}, {}], "one element is needed"),
        ([7], "each element is a mapping of columns, or None"),
        ([{"note": float("nan")}], "NaN"),
        ([{"note": "x" * MAX_MESSAGE_RETURNED}], "bytes: at most"),
    ],
)
async def test_returned_values_of_another_shape_are_left_out_of_a_write_that_is_done(
    returned: Any, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    result = await settle(FakeSink(lambda batch: [Outcome.written(returned) for _ in batch]), flush_of(asking("a")))
    (delivery,) = result.deliveries
    assert delivery.confirmation is not None
    assert (delivery.confirmation.outcome, delivery.confirmation.returned) == ("written", None)
    assert result.sink_errors == 1
    assert words in caplog.text


async def test_a_caller_gets_the_columns_that_it_asked_for_however_many_its_sink_has() -> None:
    row = {"note": "x", "secret": "y", "size": 7}

    def write(batch: Batch) -> Sequence[Outcome]:
        kinds = {"again": Outcome.duplicate}
        return [kinds.get(request.request_id, Outcome.written)([row]) for request in batch]

    submissions = [asking("a"), asking("unknown", "nothing", "size"), wire("silent"), asking("again", "size")]
    result = await settle(FakeSink(write), flush_of(*submissions))
    returned = [delivery.confirmation.returned for delivery in result.deliveries if delivery.confirmation]
    assert returned == [[{"note": "x"}], [{"nothing": None, "size": 7}], None, [row]], "a duplicate has the first one's"
    assert result.sink_errors == 0


async def test_a_request_that_a_sink_would_not_understand_is_rejected_alone_before_it() -> None:
    def refers(name: str) -> JsonObject:
        records = [Record("t", {"n": 1}), Record("t", {"parent": Returned(0, "id")})]
        return wire(name) | {"records": encode_request(WriteRequest(name, records))["records"]}

    sink = FakeSink(all_written)
    result = await settle(sink, flush_of(wire("a"), refers("r"), wire("b")))
    assert confirmed(result) == [("a", "written"), ("r", "rejected"), ("b", "written")]
    rejected = [one.confirmation for one in result.deliveries if one.confirmation]
    assert (rejected[1].code, rejected[1].reason) == (
        RejectCode.INVALID,
        "a value refers to an earlier record of the request, and this sink takes no references",
    )
    assert sink.written == [["a", "b"]]
    deleting = wire("d") | {"records": [{"table": "t", "values": {"n": 1}, "operation": "delete"}]}
    result = await settle(sink, flush_of(wire("a"), deleting))
    assert confirmed(result) == [("a", "written"), ("d", "rejected")]
    assert [one.confirmation.reason for one in result.deliveries if one.confirmation] == [
        None,
        "'t': operation delete: this sink takes insert",
    ]
    alone = await settle(sink, flush_of(refers("r")))
    assert (confirmed(alone), alone.stalled) == ([("r", "rejected")], False)
    sink.takes_references, sink.operations = True, ("insert", "delete")
    assert confirmed(await settle(sink, flush_of(deleting))) == [("d", "written")]
    assert confirmed(await settle(sink, flush_of(refers("r")))) == [("r", "written")]


async def test_a_receipt_that_is_full_says_that_more_was_returned() -> None:
    """Also if what is in it fills it to the last byte."""
    frame = len('[{"note":""}]')
    sizes = [MAX_MESSAGE_RETURNED - frame, 1]
    parcel = {
        "request_id": "p",
        "requests": [asking(name) | {"reply_to": []} for name in ("a", "b")],
        "reply_to": [caller("p").to_wire()],
    }
    sink = FakeSink(lambda batch: [Outcome.written([{"note": "x" * size}]) for size in sizes])
    (delivery,) = (await settle(sink, flush_of(parcel))).deliveries
    assert delivery.receipt is not None
    assert (list(delivery.receipt.returned), delivery.receipt.unread) == (["0"], True)
