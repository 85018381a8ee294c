"""A shard that is cancelled, terminated and started again keeps every promise it has made."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import ResetReapplyExcludeType
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError

from temporal_batching import Batch, BatcherNotRunning, BatchPolicy, MemorySink, Outcome, SinkUnavailable
from tests.support.callers import WAYS_IN, Listener, Write
from tests.support.service import QUICK, Service, entry, running
from tests.support.waiting import assert_eventually

LONG = BatchPolicy(
    linger=timedelta(minutes=10), retry_initial=timedelta(milliseconds=100), retry_max=timedelta(seconds=1)
)


async def pending(service: Service, number: int) -> None:
    async def check() -> None:
        try:
            stats = await service.stats()
        except BatcherNotRunning as err:  # it is started by the write that is counted
            raise AssertionError from err
        assert stats.pending == number

    await assert_eventually(check)


async def closed_as(service: Service, run_id: str, status: WorkflowExecutionStatus) -> None:
    async def check() -> None:
        handle = service.client.get_workflow_handle(service.shard().id, run_id=run_id)
        assert (await handle.describe()).status == status

    await assert_eventually(check, within=20)


class Outage(MemorySink):
    """Down until it is over."""

    over = False

    async def write(self, batch: Batch) -> Sequence[Outcome]:
        if not self.over:
            raise SinkUnavailable("down", in_doubt=False)
        return await super().write(batch)


async def test_a_shard_that_starts_again_never_repeats_a_batch_id(client: Client) -> None:
    sink = MemorySink(reject=lambda request: "odd" if request.records[0].values["n"] % 2 else None)
    async with running(client, sink) as service:
        write = Write([["entries", {"n": 1}]], request_id=f"{service.name}-1")
        (refused,) = await service.call("activity", [write])
        assert (refused.outcome, refused.code) == ("rejected", "constraint")
        await service.shard().terminate()
        corrected = Write([["entries", {"n": 2}]], request_id=write.request_id)
        (result,) = await service.call("activity", [corrected])
    assert (result.outcome, result.reason) == ("written", "")
    assert result.batch_id != refused.batch_id


async def test_two_shards_of_one_name_over_one_ledger_answer_duplicate(client: Client) -> None:
    """As in two namespaces that share a database: each shard begins to count at 1."""
    sink = MemorySink()
    async with running(client, sink) as service:
        write = Write([["entries", {"n": 1}]], request_id=f"{service.name}-1")
        assert (await service.call("activity", [write]))[0].outcome == "written"
        await service.shard().terminate()
        assert (await service.call("activity", [write]))[0].outcome == "duplicate"


async def test_a_cancelled_shard_writes_what_it_holds_and_then_ends_as_cancelled(client: Client) -> None:
    sink = MemorySink()
    async with running(client, sink, LONG) as service:
        callers = [await service.start(way_in, [entry(n)]) for way_in in WAYS_IN for n in range(2)]
        await pending(service, 6)
        run_id = (await service.stats()).run_id
        await service.shard().cancel()
        for caller in callers:
            assert (await caller.result())[0].outcome == "written"
        await closed_as(service, run_id, WorkflowExecutionStatus.CANCELED)
        assert len(sink.batches) == 1
        # The next write by activity starts the shard anew.
        again = await service.start("activity", [entry(9)])
        await pending(service, 1)
        await service.handle.flush()
        assert (await again.result())[0].outcome == "written"


async def test_a_cancelled_shard_waits_for_its_sink(client: Client) -> None:
    sink = MemorySink()
    sink.fail_next(3)
    async with running(client, sink, LONG) as service:
        caller = await service.start("activity", [entry(1)])
        await pending(service, 1)
        run_id = (await service.stats()).run_id
        await service.shard().cancel()
        assert (await caller.result())[0].outcome == "written"
        await closed_as(service, run_id, WorkflowExecutionStatus.CANCELED)


async def test_a_cancellation_survives_continue_as_new(continuing_client: Client) -> None:
    """Temporal forgets it there: the run that follows is asked to cancel again."""
    sink = Outage()
    async with running(continuing_client, sink, LONG) as service:
        caller = await service.start("activity", [entry(1)])
        await pending(service, 1)
        await service.shard().cancel()

        async def continued() -> None:
            stats = await service.stats()
            assert stats.continue_as_new >= 1
            assert stats.draining

        await assert_eventually(continued, within=40)
        sink.over = True
        assert (await caller.result())[0].outcome == "written"

        async def ended() -> None:
            assert (await service.shard().describe()).status == WorkflowExecutionStatus.CANCELED

        await assert_eventually(ended, within=20)


async def test_a_signal_cannot_complete_somebodys_activity(client: Client) -> None:
    sink = MemorySink()
    async with running(client, sink, LONG) as service:
        victim = await service.start("activity", [entry(1)])
        await pending(service, 1)
        listener = await service.run(Listener.run, 2)
        description = await client.get_workflow_handle(victim.id).describe()
        (activity,) = description.raw_description.pending_activities
        fine: Any = [{"table": "entries", "values": {"n": 2}}]
        for number, records in enumerate((fine, "junk")):
            reply_to = {"workflow_id": victim.id, "activity_id": activity.activity_id}
            forged: dict[str, Any] = {"request_id": uuid4().hex, "records": records, "reply_to": reply_to}
            await service.shard().signal("add_write_request", forged)
            own = {**forged, "request_id": f"own-{number}", "reply_to": {**reply_to, "workflow_id": listener.id}}
            await service.shard().signal("add_write_request", own)
        answers = await listener.result()
        assert [(a["request_id"], a["outcome"], a["code"]) for a in answers] == [
            ("own-0", "rejected", "invalid"),
            ("own-1", "rejected", "invalid"),
        ]
        await service.handle.flush()
        (result,) = await victim.result()
    assert (result.outcome, sink.rows["entries"]) == ("written", [{"n": 1}])


ATTACKS: dict[str, list[list[str]]] = {
    "long ids": [[f"nobody-{n}", "x" * 100_000] for n in range(12)],
    "non-ASCII ids": [["\N{SNOWMAN}" * 200 + str(n), "\N{SNOWMAN}" * 900] for n in range(400)],
}


@pytest.mark.parametrize("attack", sorted(ATTACKS))
async def test_remembered_withdrawals_do_not_keep_a_run_from_ending(continuing_client: Client, attack: str) -> None:
    sink = MemorySink()
    async with running(continuing_client, sink, QUICK) as service:
        await asyncio.gather(*(service.shard().signal("withdraw_write_request", args=args) for args in ATTACKS[attack]))

        async def continued() -> None:
            assert (await service.stats()).continue_as_new >= 1

        for n in range(60):
            assert (await service.call("activity", [entry(n)]))[0].outcome == "written"
            if (await service.stats()).continue_as_new:
                break
        await assert_eventually(continued)


class Doubtful(MemorySink):
    """Down, and it is not known whether what it was given is written."""

    async def write(self, batch: Batch) -> Sequence[Outcome]:
        raise SinkUnavailable("down", in_doubt=True)

    async def fence(self, batch: Batch) -> Sequence[Outcome]:
        raise SinkUnavailable("down", in_doubt=True)


async def test_a_cancelled_shard_ends_though_its_sink_stays_down(client: Client) -> None:
    async with running(client, Doubtful(), LONG) as service:
        callers = [await service.start(way_in, [entry(1)], timeout=6.0) for way_in in WAYS_IN]
        await pending(service, 3)
        run_id = (await service.stats()).run_id
        await service.shard().cancel()
        await closed_as(service, run_id, WorkflowExecutionStatus.CANCELED)
        assert {(await caller.result())[0].error for caller in callers} == {"WriteNotConfirmed"}


async def test_a_worker_that_starts_while_a_shard_ends_starts_it_anew(client: Client) -> None:
    sink = Outage()
    async with running(client, sink, LONG) as service:
        caller = await service.start("activity", [entry(1)])
        await pending(service, 1)
        run_id = (await service.stats()).run_id
        await service.shard().cancel()

        # An announcement that comes in one task with the cancellation counts as before it.
        async def ending() -> None:
            assert (await service.stats()).draining

        await assert_eventually(ending)
        await service.stop_batcher()
        await service.start_batcher()
        sink.over = True
        assert (await caller.result())[0].outcome == "written"
        await closed_as(service, run_id, WorkflowExecutionStatus.CANCELED)

        async def anew() -> None:
            assert (await service.shard().describe()).status == WorkflowExecutionStatus.RUNNING

        await assert_eventually(anew, within=40)


async def test_a_shard_whose_cancellation_waited_for_its_worker_is_started_anew(client: Client) -> None:
    """Announcement and cancellation come in one workflow task: the announcement is accepted, and the shard ends."""
    async with running(client, MemorySink()) as service:
        run_id = (await service.stats()).run_id
        await service.stop_batcher()
        await service.shard().cancel()
        await service.start_batcher()
        await closed_as(service, run_id, WorkflowExecutionStatus.CANCELED)

        async def anew() -> None:
            assert (await service.shard().describe()).status == WorkflowExecutionStatus.RUNNING

        await assert_eventually(anew, within=20)


async def test_a_shard_that_was_reset_never_repeats_a_batch_id(client: Client) -> None:
    sink = MemorySink(reject=lambda request: "odd" if request.records[0].values["n"] % 2 else None)
    async with running(client, sink) as service:
        write = Write([["entries", {"n": 1}]], request_id=f"{service.name}-1")
        (refused,) = await service.call("activity", [write])
        assert refused.outcome == "rejected"
        await reset_to_the_beginning(service)
        corrected = Write([["entries", {"n": 2}]], request_id=write.request_id)
        (result,) = await service.call("activity", [corrected])
        (after,) = await service.call("activity", [entry(4)])
    assert (result.outcome, result.reason) == ("written", "")
    assert len({refused.batch_id, result.batch_id, after.batch_id}) == 3


async def reset_to_the_beginning(service: Service) -> None:
    """Resets the shard to its first task, and forgets what came since then."""
    description = await service.shard().describe()
    await service.client.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=service.client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=description.id, run_id=description.run_id),
            reason="test",
            request_id=uuid4().hex,
            workflow_task_finish_event_id=4,
            reset_reapply_exclude_types=[
                ResetReapplyExcludeType.RESET_REAPPLY_EXCLUDE_TYPE_SIGNAL,
                ResetReapplyExcludeType.RESET_REAPPLY_EXCLUDE_TYPE_UPDATE,
            ],
        )
    )


async def test_refusals_neither_stop_a_shard_nor_keep_its_run_from_ending(continuing_client: Client) -> None:
    """Each signal is wrong and names 32 workflows to tell so: a delivery of 200 such answers fits no activity."""
    sink = MemorySink()
    async with running(continuing_client, sink, QUICK) as service:
        reply_to = [{"workflow_id": f"{n}-" + "\N{SNOWMAN}" * 300} for n in range(32)]
        junk = [{"request_id": f"r-{n}", "records": [], "reply_to": reply_to} for n in range(20)]
        for _ in range(10):
            await service.shard().signal("add_write_request", junk)
        for n in range(25):
            assert (await service.call("activity", [entry(n)]))[0].outcome == "written"
            if (await service.stats()).continue_as_new:
                break

        async def continued() -> None:
            stats = await service.stats()
            assert stats.continue_as_new >= 1
            assert stats.undelivered > 100

        await assert_eventually(continued)


async def test_a_terminated_shard_costs_an_attempt_by_activity_and_the_confirmation_by_signal(client: Client) -> None:
    sink = MemorySink()
    async with running(client, sink, LONG) as service:
        by_activity = await service.start("activity", [entry(1)], attempt_timeout=3.0)
        by_signal = await service.start("signal", [entry(2)], timeout=8.0)
        await pending(service, 2)
        await service.shard().terminate()

        async def submitted_again() -> None:
            with contextlib.suppress(RPCError):  # not started anew yet
                await service.shard().execute_update("control", {"flush": True})
            assert sink.rows.get("entries")

        await assert_eventually(submitted_again, within=30)
        assert (await by_activity.result())[0].outcome == "written"
        assert (await by_signal.result())[0].error == "WriteNotConfirmed"
    assert sink.rows["entries"] == [{"n": 1}]
