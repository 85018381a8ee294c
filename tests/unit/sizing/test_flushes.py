"""What a shard's history says of its flushes, read from the stored histories of real runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from temporalio.api.common.v1 import Payloads
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import WorkflowHistory
from temporalio.converter import DataConverter

from temporal_batching.contract import ACTIVITY_FLUSH
from temporal_batching.sizing.actions import HistoryCounts
from temporal_batching.sizing.flushes import Flushed, RunReader

HISTORIES = Path(__file__).parents[2] / "replay" / "histories" / "1.0.0"


def events_of(name: str) -> list[HistoryEvent]:
    return list(WorkflowHistory.from_json(name, (HISTORIES / f"{name}.json").read_text(encoding="utf-8")).events)


async def decode(payloads: Payloads) -> Any:
    values = await DataConverter.default.decode(payloads.payloads)
    return values[0]


async def read(
    events: list[HistoryEvent], *, since: float = 0.0, decoder: Any = decode
) -> tuple[HistoryCounts, Flushed]:
    counts, flushed = HistoryCounts(), Flushed()
    reader = RunReader(counts, flushed, decoder, since=since)
    for event in events:
        await reader.read(event)
    return counts, flushed


def flushes_of(events: list[HistoryEvent]) -> int:
    return sum(event.activity_task_scheduled_event_attributes.activity_type.name == ACTIVITY_FLUSH for event in events)


@pytest.mark.parametrize(
    ("name", "way"), [("activity-batcher", "activity"), ("signal-batcher", "signal"), ("many-batcher", "write_many")]
)
async def test_requests_are_counted_by_their_way_in(name: str, way: str) -> None:
    events = events_of(name)
    counts, flushed = await read(events)
    assert counts.events.total() == len(events)
    assert flushed.by_way[way] > 0
    assert flushed.records >= flushed.by_way.total() >= flushed.largest > 0
    assert (flushed.parcels > 0) is (way == "write_many")
    assert flushed.flushes + flushed.failed in (flushes_of(events), flushes_of(events) - 1)  # one may be open
    assert flushed.unreadable == 0


async def test_a_batch_that_is_retried_is_counted_once_and_its_failures_apart() -> None:
    events = events_of("sink-down-batcher")
    _, flushed = await read(events)
    assert flushed.failed > 0
    assert flushed.flushes > 0
    assert flushed.outcomes.total() == flushed.by_way.total()


async def test_what_happened_earlier_is_not_counted() -> None:
    events = events_of("activity-batcher")
    last = events[-1].event_time.ToNanoseconds() / 1e9
    counts, flushed = await read(events, since=last + 1)
    assert (counts.events.total(), counts.bytes, flushed.flushes, flushed.by_way.total()) == (0, 0, 0, 0)
    counts, _ = await read(events, since=last)
    assert 0 < counts.events.total() < len(events)


async def test_what_cannot_be_read_is_counted_as_such() -> None:
    events = events_of("activity-batcher")

    async def garbled(payloads: Payloads) -> Any:
        return None

    async def of_another_version(payloads: Payloads) -> Any:
        return {"submissions": [{"id": 1}], "outcomes": 3}

    for decoder in (garbled, of_another_version):
        counts, flushed = await read(events, decoder=decoder)
        assert flushed.unreadable == 2 * flushes_of(events)
        assert (flushed.flushes, flushed.outcomes.total()) == (0, 0)
        assert counts.actions["activities"] == sum(
            event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED for event in events
        )
