"""`MemorySink` answers as `SqlSink` does, so that a test with it tells the truth."""

from __future__ import annotations

import pytest

from temporal_batching.contract import Record, RejectCode, WriteRequest
from temporal_batching.errors import SinkUnavailable
from temporal_batching.sinks import Batch, LedgerStatus, MemorySink


def entry(number: int, *, request_id: str | None = None, expires_at: float | None = None) -> WriteRequest:
    return WriteRequest(request_id or f"r{number}", [Record("entries", {"id": number})], expires_at=expires_at)


def batch(*requests: WriteRequest, number: int = 1) -> Batch:
    return Batch(requests, id=f"main-0/{number}")


async def kinds(sink: MemorySink, asked: Batch) -> list[str]:
    return [outcome.kind.value for outcome in await sink.write(asked)]


async def test_each_id_is_written_once() -> None:
    sink = MemorySink()
    assert await kinds(sink, batch(entry(1), entry(2), entry(1))) == ["written", "written", "duplicate"]
    assert await kinds(sink, batch(entry(1), entry(2), entry(1))) == ["written", "written", "duplicate"]
    assert await kinds(sink, batch(entry(1), entry(3), number=2)) == ["duplicate", "written"]
    assert sink.rows == {"entries": [{"id": 1}, {"id": 2}, {"id": 3}]}
    assert [b.id for b in sink.batches] == ["main-0/1", "main-0/1", "main-0/2"]


async def test_an_id_with_other_records_is_rejected() -> None:
    sink = MemorySink()
    outcomes = await sink.write(batch(entry(1), entry(2, request_id="r1")))
    assert [o.code for o in outcomes] == [None, RejectCode.ID_REUSED]


async def test_a_request_is_rejected_with_all_its_records() -> None:
    sink = MemorySink(reject=lambda request: "odd" if len(request.records) % 2 else None)
    pair = WriteRequest("pair", [Record("a", {}), Record("b", {})])
    outcomes = await sink.write(batch(entry(1), pair))
    assert [o.reason for o in outcomes] == ["odd", None]
    assert sink.rows == {"a": [{}], "b": [{}]}
    assert set(await sink.lookup(["r1", "pair"])) == {"pair"}


async def test_deadlines_and_tombstones_are_kept() -> None:
    now = [10.0]
    sink = MemorySink(clock=lambda: now[0])
    assert await kinds(sink, batch(entry(1, expires_at=10.0), entry(2, expires_at=11.0))) == ["expired", "written"]
    now[0] = 12.0
    settled = await sink.fence(batch(entry(2), entry(3)))
    assert [o.kind.value for o in settled] == ["written", "expired"]
    assert sink.ledger["r3"].status is LedgerStatus.EXPIRED
    assert await kinds(sink, batch(entry(3))) == ["expired"]
    assert await kinds(sink, batch(entry(3), number=2)) == ["written"]


@pytest.mark.parametrize("committed", [True, False])
async def test_it_fails_as_told(committed: bool) -> None:
    sink = MemorySink()
    sink.fail_next(2, committed=committed)
    for _ in range(2):
        with pytest.raises(SinkUnavailable) as caught:
            await sink.write(batch(entry(1)))
        assert caught.value.in_doubt is committed
    assert bool(sink.rows) is committed
    assert await kinds(sink, batch(entry(1))) == ["written"]
    assert sink.rows == {"entries": [{"id": 1}]}


async def test_what_no_ledger_can_hold_is_invalid() -> None:
    sink = MemorySink()
    requests = [entry(1, request_id=i) for i in ("\x00", "\ud800", "x" * 2000)]
    requests.append(WriteRequest("object", [Record("entries", {"id": object()})]))
    assert {o.code for o in await sink.write(batch(*requests))} == {RejectCode.INVALID}
