"""What came while no worker was there: read in portions, each in a workflow task of its own, in order."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner

import temporal_batching.batcher.signals as signals
import temporal_batching.batcher.workflow as batcher
from temporal_batching import BatchPolicy, MemorySink
from temporal_batching.batcher.workflow import BatcherWorkflow
from tests.support.fault_points import FaultInterceptor, FaultPoint
from tests.support.service import QUICK, Service, count, entry, running
from tests.support.waiting import assert_eventually


def request(number: int, **values: Any) -> dict[str, Any]:
    return {"request_id": f"r-{number}", "records": [{"table": "entries", "values": {"n": number, **values}}]}


async def backlog(service: Service, requests: list[dict[str, Any]]) -> None:
    """Signals, with no worker there."""
    await service.stop_batcher()
    for one in requests:
        await service.shard().signal("add_write_request", one)


@pytest.mark.parametrize("limit", ["signals", "bytes"])
async def test_a_backlog_of_signals_is_read_in_portions_and_in_order(
    client: Client, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(signals, *(("SIGNALS_AT_ONCE", 30) if limit == "signals" else ("SIGNAL_BYTES_AT_ONCE", 9_000)))
    text = "x" * 200 if limit == "bytes" else ""
    sink = MemorySink()
    async with running(client, sink, BatchPolicy(linger=QUICK.linger, max_batch_size=1_000)) as service:
        await backlog(service, [request(n, text=text) for n in range(100)])
        await service.start_batcher()
        (result,) = await service.call("activity", [entry(1_000)])

        async def settled() -> None:
            assert (await service.stats()).outcomes == {"written": 101}

        await assert_eventually(settled)
        events = await service.events()
        history = await service.shard().fetch_history()
    assert result.outcome == "written"
    assert [row["n"] for row in sink.rows["entries"] if row["n"] != 1_000] == list(range(100))
    assert count(events, EventType.EVENT_TYPE_TIMER_STARTED) >= 1, "all was read in one task"
    await Replayer(workflows=[BatcherWorkflow], workflow_runner=UnsandboxedWorkflowRunner()).replay_workflow(history)


async def test_a_run_does_not_end_before_it_has_read_every_signal(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "SIGNALS_AT_ONCE", 10)
    monkeypatch.setattr(batcher, "MAX_SIGNALS_PER_RUN", 20)
    sink = MemorySink()
    async with running(client, sink) as service:
        await backlog(service, [request(n) for n in range(50)])
        await service.start_batcher()

        async def settled() -> None:
            stats = await service.stats()
            assert stats.outcomes == {"written": 50}
            assert stats.continue_as_new >= 1

        await assert_eventually(settled)
    assert Counter(row["n"] for row in sink.rows["entries"]) == dict.fromkeys(range(50), 1)


async def test_a_slow_activation_is_not_held_for_a_deadlock(client: Client) -> None:
    """Where CPU is short, thousands of signals take long to dispatch; the SDK's limit is 2 seconds."""

    def slowly(point: FaultPoint) -> None:
        if point is FaultPoint.BEFORE_ACCEPT:
            time.sleep(2.5)

    slow = {"interceptors": [FaultInterceptor(slowly)]}
    async with running(client, MemorySink(), worker_options=slow) as service:
        (result,) = await service.call("signal", [entry(1)])
        events = await service.events()
    assert result.outcome == "written"
    assert count(events, EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED) == 0
