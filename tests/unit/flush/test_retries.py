"""What a sink wants to be retried is requeued alone, with what shares its id; its callers receive nothing yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from temporal_batching.contract import (
    FlushResult,
    Outcome,
    Requeued,
)
from temporal_batching.sinks.base import Batch
from tests.support.buffers import caller
from tests.support.flushes import Calls, FakeSink, all_written, confirmed, flush_of, run, settle, wire


def retry(*names: str, in_doubt: bool = False) -> Callable[[Batch], Sequence[Outcome]]:
    return lambda batch: [
        Outcome.retry("locked", in_doubt=in_doubt) if r.request_id in names else Outcome.written() for r in batch
    ]


@pytest.mark.parametrize("in_doubt", [True, False])
async def test_what_is_to_be_retried_is_neither_confirmed_nor_fenced(in_doubt: bool) -> None:
    calls, sink = Calls(), FakeSink(retry("b", in_doubt=in_doubt))
    result = await run(sink, flush_of(wire("a"), wire("b"), wire("c")), calls)
    assert result == FlushResult({"written": 2}, requeued=[Requeued(1, "locked", in_doubt)])
    assert sorted(calls.completed) == ["w-a", "w-c"]
    assert sink.settled == []


async def test_a_parcel_with_one_request_to_be_retried_is_requeued_whole_and_in_doubt() -> None:
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


async def test_in_a_half_of_a_batch_no_request_of_a_parcel_is_confirmed_as_the_first() -> None:
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
