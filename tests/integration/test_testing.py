"""`running_batcher`: users test what writes through a batcher on a real one, without a database."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from temporal_batching import BatcherPlugin, BatchingError, BatchPolicy, GatewayPlugin, MemorySink
from temporal_batching.contract import WORKFLOW_BATCHER, BatcherStart
from temporal_batching.routing import batcher_workflow_id
from temporal_batching.testing import running_batcher
from temporal_batching.testing.batcher import MARK
from tests.support.callers import CALLERS, WAYS_IN, Caller, CallerResult, Job, Write
from tests.support.waiting import assert_eventually
from tests.support.ways import by_way_in


class Shop:
    """A user's workflows, which expect their batcher under a name and a task queue."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.name = f"shop{uuid4().hex[:8]}"
        self.options: dict[str, Any] = {"name": self.name, "task_queue": f"{self.name}-batcher", "shards": 2}

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Shop]:
        plugin = GatewayPlugin(**self.options)
        async with Worker(self.client, task_queue=self.name, workflows=CALLERS, plugins=[plugin]):
            yield self

    async def start(
        self, way_in: str, *writes: Write, timeout: float = 120.0
    ) -> WorkflowHandle[Any, list[CallerResult]]:
        job = Job(self.name, f"{self.name}-batcher", way_in, list(writes), shards=2, timeout=timeout)
        handle: WorkflowHandle[Any, list[CallerResult]] = await self.client.start_workflow(
            Caller.run, job, id=f"{self.name}-{uuid4().hex[:8]}", task_queue=self.name
        )
        return handle

    async def buy(self, way_in: str, *writes: Write) -> list[CallerResult]:
        return await (await self.start(way_in, *writes)).result()


def order(number: int, *, request_id: str = "") -> Write:
    return Write([["orders", {"number": number}]], request_id=request_id or f"order-{number}", key="one")


@by_way_in(*WAYS_IN)
async def test_what_a_workflow_writes_is_visible_by_every_way_in(client: Client, way_in: str) -> None:
    async with Shop(client).open() as shop, running_batcher(client, **shop.options) as batcher:
        results = await shop.buy(way_in, order(1), order(2))
        assert [one.outcome for one in results] == ["written", "written"]
        # Asked for side by side, they come in any order.
        assert sorted(row["number"] for row in batcher.rows["orders"]) == [1, 2]
        assert [batcher.wrote(f"order-{n}") for n in (1, 2, 3)] == [True, True, False]
        assert sum(shard.batches for shard in await batcher.handle.stats()) == len(batcher.sink.batches)


@by_way_in(*WAYS_IN)
async def test_a_rejection_reaches_the_caller_with_the_tests_reason(client: Client, way_in: str) -> None:
    async with (
        Shop(client).open() as shop,
        running_batcher(
            client, **shop.options, reject=lambda r: "sold out" if r.request_id == "order-1" else None
        ) as batcher,
    ):
        bad, good = await shop.buy(way_in, order(1), order(2))
        assert bad.error == "WriteRejected"
        assert bad.reason.endswith(": sold out")
        assert good.outcome == "written"
        assert batcher.rows == {"orders": [{"number": 2}]}
        assert not batcher.wrote("order-1")


async def test_an_outage_is_one_line_and_passes(client: Client) -> None:
    async with Shop(client).open() as shop, running_batcher(client, **shop.options) as batcher:
        batcher.sink.fail_next(1, committed=True)
        assert [one.outcome for one in await shop.buy("activity", order(1))] == ["written"]
        assert batcher.rows == {"orders": [{"number": 1}]}


@pytest.mark.parametrize(
    ("moment", "way_in", "error"),
    [
        ("pause", "activity", "WriteExpired"),
        ("pause", "signal", "WriteExpired"),
        ("drain", "activity", "WriteNotSubmitted"),
        ("drain", "signal", "WriteRejected"),
    ],
)
async def test_a_batcher_that_does_not_go_on_ends_a_write_as_it_says(
    moment: str, way_in: str, error: str, client: Client
) -> None:
    async with Shop(client).open() as shop, running_batcher(client, **shop.options) as batcher:
        await (batcher.handle.pause() if moment == "pause" else batcher.handle.drain())
        (result,) = await (await shop.start(way_in, order(1), timeout=8.0)).result()
        assert result.error == error, result
        assert batcher.rows == {}


async def test_the_next_test_starts_from_nothing(client: Client) -> None:
    async with Shop(client).open() as shop:
        for _ in range(2):
            async with running_batcher(client, **shop.options) as batcher:
                assert batcher.rows == {}
                assert [one.outcome for one in await shop.buy("signal", order(1))] == ["written"]


@pytest.mark.parametrize("machine", ["this one", "another one"])
async def test_what_a_killed_test_left_behind_is_cleared_away(client: Client, machine: str) -> None:
    gone = await asyncio.create_subprocess_exec("true")
    await gone.wait()
    killed = [socket.gethostname() if machine == "this one" else "elsewhere", str(gone.pid), "a block"]
    async with Shop(client).open() as shop:
        for shard in range(2):
            start = BatcherStart(shop.name, shard, BatchPolicy().to_wire())
            workflow_id = batcher_workflow_id(shop.name, shard)
            queue = shop.options["task_queue"]
            await client.start_workflow(WORKFLOW_BATCHER, start, id=workflow_id, task_queue=queue, memo={MARK: killed})
        left = {"request_id": "order-1", "records": [{"table": "orders", "values": {"number": 1}}]}
        for shard in range(2):
            await client.get_workflow_handle(batcher_workflow_id(shop.name, shard)).signal("add_write_request", left)
        async with running_batcher(client, **shop.options) as batcher:
            assert [one.outcome for one in await shop.buy("signal", order(2))] == ["written"]
            await batcher.handle.flush()
            assert batcher.rows == {"orders": [{"number": 2}]}


async def test_the_two_minutes_of_a_missing_confirmation_are_skipped(skipping: WorkflowEnvironment) -> None:
    async with Shop(skipping.client).open() as shop, running_batcher(skipping.client, **shop.options) as batcher:
        await batcher.handle.pause()
        before = await skipping.get_current_time()
        (result,) = await shop.buy("signal", order(1))
        assert result.error == "WriteExpired"
        assert await skipping.get_current_time() - before >= timedelta(minutes=1)
        assert batcher.rows == {}


async def test_a_batcher_that_it_did_not_start_is_left_alone(client: Client) -> None:
    name = f"live-{uuid4().hex[:8]}"
    plugin = BatcherPlugin(MemorySink(), policy=BatchPolicy(linger=timedelta(minutes=10)), name=name)
    handle = client.get_workflow_handle(batcher_workflow_id(name, 0))
    async with Worker(client, task_queue=f"{name}-queue", plugins=[plugin]):

        async def runs() -> None:
            with suppress(RPCError):
                assert (await handle.describe()).status == WorkflowExecutionStatus.RUNNING
                return
            raise AssertionError("it does not run yet")

        await assert_eventually(runs)
        with pytest.raises(
            BatchingError, match=f"batcher-{name}-0 runs already, and this running_batcher did not start it"
        ):
            async with running_batcher(client, name=name):
                pass
        assert (await handle.describe()).status == WorkflowExecutionStatus.RUNNING
    await handle.terminate()


async def test_a_batcher_of_another_test_that_still_runs_is_left_alone(client: Client) -> None:
    name = f"live-{uuid4().hex[:8]}"
    async with running_batcher(client, name=name) as first:
        with pytest.raises(BatchingError, match=f"batcher-{name}-0 runs already"):
            async with running_batcher(client, name=name, task_queue=f"{name}-other"):
                pass
        assert [shard.breaker for shard in await first.handle.stats()] == ["closed"]


async def test_at_the_end_it_terminates_what_it_started_and_nothing_else(client: Client) -> None:
    name = f"live-{uuid4().hex[:8]}"
    handle = client.get_workflow_handle(batcher_workflow_id(name, 0))
    async with running_batcher(client, name=name):
        await handle.terminate("an operator")
        start = BatcherStart(name, 0, BatchPolicy().to_wire())
        await client.start_workflow(
            WORKFLOW_BATCHER, start, id=handle.id, task_queue="somewhere", memo={MARK: "another test's"}
        )
    assert (await handle.describe()).status == WorkflowExecutionStatus.RUNNING
    await handle.terminate()
