"""A query that reaches a worker without the run in its cache, before the run's next workflow task, changes nothing."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType, WorkflowTaskFailedCause
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from temporal_batching import BatcherStats, BatchPolicy, MemorySink
from temporal_batching.contract import QUERY_STATS, SIGNAL_ADD, UPDATE_SUBMIT
from tests.replay.test_histories import replay
from tests.support.service import Service, count, running
from tests.support.waiting import assert_eventually

ATTEMPTS = 12
"""Of the queries that wait for the new worker, one must come before the workflow task that waits as well: each time
Temporal's matching decides."""

QUERIES = 4

ANSWERED_WITHIN = timedelta(seconds=10)
"""A query that the SDK dropped is waited for until then."""


def request(n: int) -> dict[str, Any]:
    return {
        "request_id": f"r-{n}",
        "records": [{"table": "entries", "values": {"n": n}}],
        "expires_at": 4_000_000_000.0,
    }


async def outcomes(service: Service, written: int) -> None:
    async def check() -> None:
        stats = await service.stats()
        assert (stats.outcomes, stats.pending) == ({"written": written}, 0)

    # A task that the stopped worker took is repeated after 10 s, a flush after 5 s and a pause.
    await assert_eventually(check, within=45)


async def complete_a_task_without_commands(service: Service) -> None:
    """Lets the timer of a request fire whose batch is gone."""

    async def happened(kind: EventType.ValueType) -> None:
        assert count(await service.events(), kind) == 1

    await service.shard().signal(SIGNAL_ADD, request(0))
    await assert_eventually(lambda: happened(EventType.EVENT_TYPE_TIMER_STARTED))
    await service.shard().signal(SIGNAL_ADD, request(1))
    await assert_eventually(lambda: happened(EventType.EVENT_TYPE_TIMER_FIRED))
    await outcomes(service, 2)


async def answer_of(query: asyncio.Task[BatcherStats]) -> BatcherStats | None:
    """The answer; None if the SDK dropped the query with a run that it evicted, as it does with a buffered task."""
    try:
        return await query
    except RPCError as err:
        # The server's deadline ends the query with the first, the client's with the second.
        if err.status not in (RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED):
            raise
        return None


async def replace_worker(service: Service, *, empty_task: bool) -> bool:
    """Replaces the worker while queries, signals and updates wait; tells whether a query was answered too early."""
    # No cache: queries and workflow tasks wait on one queue, and nothing waits for the worker that has stopped.
    service.worker_options = {"max_cached_workflows": 0}
    await service.start_batcher()
    if empty_task:
        await complete_a_task_without_commands(service)
    await service.stop_batcher()
    queries = [
        asyncio.create_task(service.shard().query(QUERY_STATS, result_type=BatcherStats, rpc_timeout=ANSWERED_WITHIN))
        for _ in range(QUERIES)
    ]
    await asyncio.sleep(0.2)  # nothing tells that a query waits
    updates = [
        asyncio.create_task(service.shard().execute_update(UPDATE_SUBMIT, [request(n)], result_type=dict))
        for n in (3, 4)
    ]
    await asyncio.sleep(0.1)  # an update that came first schedules the task: then the SDK joins an earlier one with it
    await service.shard().signal(SIGNAL_ADD, request(2))
    service.worker_options = {}
    await service.start_batcher()
    answers = [answer for answer in await asyncio.gather(*map(answer_of, queries)) if answer is not None]
    for update in updates:
        assert not (await update)["refused"]
    events = await service.events()
    return any(comes_before_its_task(events, answer.run_events) for answer in answers)


def comes_before_its_task(events: list[HistoryEvent], last: int) -> bool:
    """Whether the history ended at this event, one since the last workflow task, when the query was dispatched."""
    kinds = [event.event_type for event in events[:last]]
    return kinds[-1] in (
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED,
        EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED,
    )


@pytest.mark.parametrize("empty_task", [False, True], ids=["", "after-a-task-without-commands"])
async def test_a_query_before_a_workflow_task_leaves_a_history_that_replays(client: Client, empty_task: bool) -> None:
    policy = BatchPolicy(linger=timedelta(milliseconds=600), max_batch_size=2)
    for _ in range(ATTEMPTS):
        async with running(client, MemorySink(), policy, batcher=False) as service:
            early = await replace_worker(service, empty_task=empty_task)
            await outcomes(service, 5 if empty_task else 3)
            past = await service.shard().fetch_history()
            events = await service.events()
        causes = [e.workflow_task_failed_event_attributes.cause for e in events]
        assert WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_NON_DETERMINISTIC_ERROR not in causes
        await replay(past)
        if early:
            return
    pytest.fail("no query came before its task: nothing was tested")
