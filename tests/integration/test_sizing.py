"""What `estimate` computes is what happens: a load by each way in, counted in the shard's history.

A failure says that a constant in ``temporal_batching/sizing/costs.py``, or a formula in ``flow.py``, is out of date:
its message has what was measured.
"""

from __future__ import annotations

import asyncio
import random
import string
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client

from temporal_batching import BatchPolicy, MemorySink, Record
from temporal_batching.contract import ACTIVITY_FLUSH
from temporal_batching.sizing import Load, Savings, Surroundings, savings
from temporal_batching.sizing.actions import HistoryCounts
from temporal_batching.sizing.costs import CONTENT_COPIES, RUN
from temporal_batching.sizing.flow import Operations, shard_flow, submission_bytes
from temporal_batching.sizing.load import Via, fill_of
from tests.support.service import Service, entry, running
from tests.support.waiting import assert_eventually

COUNTS = 0.01
"""Events and actions follow from what happened: the tolerance is for what happens once, as a worker's announcement."""

BYTES = 0.08
"""Names of workers and workflows differ in length."""

RATES = 2.0
"""How requests meet in updates and batches depends on the machine, which other tests use too: a factor."""

TEXT = 200
"""Characters in each record."""


@dataclass(frozen=True)
class Case:
    via: Via
    requests: int
    policy: BatchPolicy
    rate: float = 40.0


CASES = [
    Case("activity", 60, BatchPolicy(linger=timedelta(seconds=1)), rate=25.0),
    Case("signal", 60, BatchPolicy(linger=timedelta(seconds=1)), rate=25.0),
    Case("write_many", 4_000, BatchPolicy(linger=timedelta(seconds=1), max_batch_size=500, max_in_flight=1)),
]


def random_text() -> str:
    return "".join(random.choices(string.ascii_letters + string.digits, k=TEXT))


async def pace(count: int, rate: float, start: Callable[[int], Awaitable[object]]) -> None:
    """Starts so many at a rate, and waits until all have ended."""
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def one(number: int) -> None:
        await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
        await start(number)

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(one(number))


async def write(service: Service, case: Case) -> None:
    if case.via == "write_many":
        records = [Record("entries", {"n": number, "text": random_text()}) for number in range(case.requests)]
        await service.writer.write_many(records)
    else:
        await pace(case.requests, case.rate, lambda number: service.call(case.via, [entry(number, text=random_text())]))


async def all_events(service: Service) -> list[HistoryEvent]:
    """The shard's history, once its last workflow task is completed; callers have their answers before."""
    found: list[HistoryEvent] = []

    async def is_idle() -> None:
        assert (await service.stats()).in_flight == 0
        found[:] = await service.events()
        assert found[-1].event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED

    await assert_eventually(is_idle)
    return found


@dataclass
class Counted:
    """What a shard's history has of a load."""

    counts: HistoryCounts
    done: Operations
    seconds: float
    surroundings: Surroundings


def count(events: list[HistoryEvent], load: Load, case: Case) -> Counted:
    counts = HistoryCounts()
    for event in events:
        counts.add(event)
    flushes = {
        event.event_id: event.event_time.ToNanoseconds()
        for event in events
        if event.activity_task_scheduled_event_attributes.activity_type.name == ACTIVITY_FLUSH
    }
    arrivals = [
        event.event_time.ToNanoseconds() / 1e9
        for event in events
        if event.workflow_execution_update_accepted_event_attributes.accepted_request.input.name == "submit"
        or event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
    ]
    fill = fill_of(load, case.policy)
    done = Operations(
        tasks=counts.events["WORKFLOW_TASK_COMPLETED"],
        updates=counts.actions["updates"],
        signals=counts.actions["signals"],
        timers=counts.actions["timers"],
        flushes=len(flushes),
        content_bytes=CONTENT_COPIES * case.requests / fill.requests * submission_bytes(load),
    )
    return Counted(
        counts,
        done,
        arrivals[-1] - arrivals[0],
        Surroundings(
            database=timedelta(seconds=mean_seconds(events, flushes, "activity_task_completed_event_attributes")),
            task=timedelta(
                seconds=mean_seconds(
                    events,
                    {
                        event.event_id: event.event_time.ToNanoseconds()
                        for event in events
                        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED
                    },
                    "workflow_task_completed_event_attributes",
                )
            ),
            call=timedelta(milliseconds=1),
        ),
    )


def mean_seconds(events: list[HistoryEvent], scheduled: dict[int, int], ends: str) -> float:
    """How long it took from what was scheduled until it was completed."""
    took = [
        event.event_time.ToNanoseconds() - scheduled[getattr(event, ends).scheduled_event_id]
        for event in events
        if event.HasField(ends) and getattr(event, ends).scheduled_event_id in scheduled  # type: ignore[arg-type]
    ]
    return sum(took) / len(took) / 1e9


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.via)
async def test_the_formulas_say_what_a_run_does(client: Client, case: Case) -> None:
    async with running(client, MemorySink(), case.policy) as service:
        await write(service, case)
        events = await all_events(service)
        load = Load(rate=case.rate, record_bytes=len('{"n":1234,"text":""}') + TEXT, via=case.via)
        counted = count(events, load, case)

        # A task that a busy machine did not complete in time is scheduled, started, and timed out.
        lost = 3 * counted.counts.events["WORKFLOW_TASK_TIMED_OUT"]
        assert counted.done.events + 1 + lost == pytest.approx(counted.counts.events.total(), rel=COUNTS, abs=2)
        assert counted.done.actions + 1 == counted.counts.actions.total()
        assert counted.done.bytes + RUN.bytes / 2 == pytest.approx(counted.counts.bytes, rel=BYTES), counted

        seen = Load(rate=case.requests / counted.seconds, record_bytes=load.record_bytes, via=case.via)
        flow = shard_flow(seen, case.policy, counted.surroundings, 1).per_second
        for name in ("updates", "signals", "flushes", "tasks"):
            expected, seen_of_it = getattr(flow, name) * counted.seconds, getattr(counted.done, name)
            # The time begins with the first arrival, which the rate does not count therefore: one more than the spread.
            assert expected / RATES - 2 <= seen_of_it <= expected * RATES + 3, (name, expected, counted)

        await has_saved(client, service, case, counted)


async def has_saved(client: Client, service: Service, case: Case, counted: Counted) -> None:
    """What `savings` says of the same history."""
    found: list[Savings] = []

    async def all_is_listed() -> None:
        found[:] = [await savings(client, batcher=service.name, since=timedelta(hours=1))]
        assert found[0].events >= counted.counts.events.total()

    await assert_eventually(all_is_listed)
    (saved,) = found
    assert saved.outcomes == {"written": case.requests}
    assert saved.by_way == {case.via: case.requests}
    assert saved.records == case.requests
    assert saved.transactions == counted.done.flushes
    assert saved.transactions_saved == case.requests - saved.transactions
    assert dict(saved.actions) == {kind: n for kind, n in counted.counts.actions.items() if n}
