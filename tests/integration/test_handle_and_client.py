"""`BatcherHandle` and `BatchClient`: what an operator and a program may rely on."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any, NoReturn

import pytest
from temporalio.client import (
    Client,
    Interceptor,
    OutboundInterceptor,
    QueryWorkflowInput,
    StartWorkflowUpdateWithStartInput,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Worker

from temporal_batching import (
    BatchClient,
    BatcherHandle,
    BatcherNotRunning,
    BatcherPlugin,
    BatchPolicy,
    Confirmation,
    MemorySink,
    Record,
    WriteError,
    WriteExpired,
    WriteRejected,
    WriteRequest,
)
from tests.support.callers import WAYS_IN
from tests.support.fault_points import with_interceptor
from tests.support.service import QUICK, entry, running
from tests.support.waiting import assert_eventually

LONG = BatchPolicy(linger=timedelta(minutes=10))


async def test_a_refused_parcel_counts_as_its_requests(client: Client) -> None:
    requests = [{"request_id": f"r-{n}", "records": [{"table": "t", "values": {"n": n}}]} for n in range(3)]
    policy = BatchPolicy(linger=timedelta(minutes=10), max_pending=2)
    async with running(client, MemorySink(), policy) as service:
        result = await service.shard().execute_update("submit", [{"request_id": "p", "requests": requests}])
        assert [refusal["code"] for refusal in result["refused"]] == ["overloaded"]
        assert (await service.stats()).refused == 3


async def test_what_does_not_run_is_said_to_not_run(client: Client) -> None:
    handle = BatcherHandle(client, "nobody")
    for call in (handle.stats, handle.flush, handle.pause, handle.resume, handle.drain):
        with pytest.raises(BatcherNotRunning, match="batcher-nobody-0"):
            await call()
    with pytest.raises(BatcherNotRunning):
        await handle.configure(BatchPolicy())


async def test_paused_it_accepts_and_resumed_it_writes(client: Client) -> None:
    sink = MemorySink()
    async with running(client, sink, shards=2) as service:
        await service.handle.pause()
        callers = [await service.start(way_in, [entry(n)]) for n, way_in in enumerate(WAYS_IN)]

        async def pending() -> None:
            assert sum(stats.pending for stats in await service.handle.stats()) == 3

        await assert_eventually(pending)
        assert all(stats.paused for stats in await service.handle.stats())
        with pytest.raises(TimeoutError):
            await service.handle.flush(timeout=timedelta(milliseconds=300))
        assert not sink.batches
        await service.handle.resume()
        assert [(await caller.result())[0].outcome for caller in callers] == ["written"] * 3


async def test_drained_it_is_empty_and_takes_nothing_until_it_resumes(client: Client) -> None:
    sink = MemorySink()
    async with running(client, sink, LONG) as service:
        caller = await service.start("activity", [entry(n) for n in range(5)])

        async def pending() -> None:
            assert (await service.stats()).pending == 5

        await assert_eventually(pending)
        await service.handle.drain()
        stats = await service.stats()
        assert (stats.pending, stats.in_flight, stats.dedup_ids, stats.draining) == (0, 0, 0, True)
        assert {one.outcome for one in await caller.result()} == {"written"}
        waits = await service.start("activity", [entry(6)])
        (refused,) = await service.call("signal", [entry(7)])
        assert (refused.error, refused.code) == ("WriteRejected", "overloaded")
        await service.handle.resume()

        async def taken() -> None:
            assert (await service.stats()).pending == 1

        await assert_eventually(taken)
        await service.handle.flush()
        assert (await waits.result())[0].outcome == "written"
    assert {"n": 7} not in sink.rows["entries"]


async def test_an_operators_policy_survives_workers_and_an_announced_one_does_not(client: Client) -> None:
    async with running(client, MemorySink(), QUICK) as service:

        async def size(expected: int) -> None:
            async def check() -> None:
                assert (await service.stats()).policy["max_batch_size"] == expected

            # A worker that stops may take a task with it; Temporal gives that one up after 10 s, and the
            # announcement that it carried is sent again.
            await assert_eventually(check, within=40)

        await size(100)
        await service.stop_batcher()
        await service.start_batcher(policy=BatchPolicy(max_batch_size=50))
        await size(50)
        await service.handle.configure(BatchPolicy(max_batch_size=7))
        await size(7)
        await service.stop_batcher()
        await service.start_batcher(policy=BatchPolicy(max_batch_size=60))
        await size(7)
        # An announcement that finds the operator's policy leaves no other trace either.
        assert (await service.stats()).policy == BatchPolicy(max_batch_size=7).to_wire()


async def test_a_policy_change_takes_hold_of_what_waits(client: Client) -> None:
    sink = MemorySink()
    async with running(client, sink, LONG) as service:
        caller = await service.start("activity", [entry(n) for n in range(20)])

        async def pending() -> None:
            assert (await service.stats()).pending == 20

        await assert_eventually(pending)
        await service.handle.configure(BatchPolicy(linger=timedelta(minutes=10), max_batch_size=10))
        assert {one.outcome for one in await caller.result()} == {"written"}
    assert [len(batch) for batch in sink.batches] == [10, 10]


async def test_a_gateway_starts_a_shard_that_does_not_run_and_the_worker_says_the_policy(client: Client) -> None:
    policy = BatchPolicy(linger=timedelta(milliseconds=100), max_batch_size=17)
    options = {"start_shards": False}
    async with running(client, MemorySink(), policy, plugin_options=options) as service:
        results = await service.call("local", [entry(n) for n in range(5)])
        stats = await service.stats()
    assert {one.outcome for one in results} == {"written"}
    assert stats.policy == policy.to_wire()


async def test_writers_race_to_start_a_batcher(client: Client) -> None:
    policy = BatchPolicy(linger=timedelta(milliseconds=100))
    async with running(client, MemorySink(), policy, shards=3, plugin_options={"start_shards": False}) as service:
        results = await asyncio.gather(*(service.call(way_in, [entry(1)] * 6) for way_in in ("activity", "local") * 3))
    assert {one.outcome for part in results for one in part} == {"written"}


async def test_a_program_writes_one_row_and_receives_its_confirmation(client: Client) -> None:
    sink = MemorySink(reject=lambda request: "no" if request.records[0].table == "bad" else None)
    async with running(client, sink) as service:
        confirmation = await service.writer.write("entries", {"n": 1})
        assert (confirmation.outcome, confirmation.batch_size) == ("written", 1)
        assert confirmation.settled_at is not None
        again = await service.writer.write("entries", {"n": 1}, request_id=confirmation.request_id)
        assert again.outcome == "duplicate"
        with pytest.raises(WriteRejected) as rejected:
            await service.writer.write_all([Record("entries", {"n": 2}), Record("bad", {"n": 2})][::-1])
        assert rejected.value.confirmation is not None
        assert (rejected.value.confirmation.code, rejected.value.confirmation.reason) == ("constraint", "no")
        with pytest.raises(WriteRejected, match="NaN"):
            await service.writer.write("entries", {"n": float("nan")})
        await service.handle.pause()
        with pytest.raises(WriteExpired):
            await service.writer.write("entries", {"n": 3}, timeout=timedelta(seconds=8))
    assert sink.rows["entries"] == [{"n": 1}]


def _key(number: int) -> str:
    return f"key-{number % 7}"


async def test_two_thousand_requests_each_have_their_own_result_in_order(client: Client) -> None:
    sink = MemorySink(reject=lambda request: "odd" if request.records[0].values.get("n", 0) % 10 == 3 else None)
    async with running(client, sink, shards=2) as service:
        requests: list[WriteRequest | Record] = [
            WriteRequest(f"{service.name}-{n}", [Record("entries", {"n": n})], key=_key(n)) for n in range(2_000)
        ]
        requests[5] = Record("", {"n": 5})
        requests[6] = Record("entries", {"n": float("inf")})
        requests[7] = Record("entries", {"n": object()})
        requests[8] = Record("entries", {"n": 8})
        results = await service.writer.write_many(requests)
        again = await service.writer.write_many(requests[100:200])
    assert len(results) == 2_000
    for n, result in enumerate(results):
        if n in (5, 6, 7):
            assert isinstance(result, WriteRejected), (n, result)
            continue
        assert isinstance(result, Confirmation), (n, result)
        assert n == 8 or result.request_id == f"{service.name}-{n}"
        assert result.outcome == ("rejected" if n % 10 == 3 else "written"), (n, result)
    assert Counter(_outcome(result) for result in again) == {"duplicate": 90, "rejected": 10}
    assert sorted(row["n"] for row in sink.rows["entries"]) == [
        n for n in range(2_000) if n % 10 != 3 and n not in (5, 6, 7)
    ]
    for key in range(7):
        rows = [row["n"] for row in sink.rows["entries"] if row["n"] % 7 == key and row["n"] != 8]
        assert rows == sorted(rows), "parcels of one key overtook each other"
    assert len(sink.batches) < 60


class _NotRunning(Interceptor):
    """Answers every query as a server does that does not know the workflow."""

    def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:
        class Calls(OutboundInterceptor):
            async def query_workflow(self, input: QueryWorkflowInput) -> Any:
                raise RPCError("workflow not found", RPCStatusCode.NOT_FOUND, b"")

        return Calls(next)


async def test_parcels_cut_for_wider_limits_than_those_in_force_are_divided(client: Client) -> None:
    """As before a shard runs, when its limits are not known yet: the program then takes the defaults."""
    sink = MemorySink()
    async with running(client, sink, BatchPolicy(linger=QUICK.linger, max_batch_size=30)) as service:
        requests = [WriteRequest(f"{service.name}-{n}", [Record("entries", {"n": n})], key="k") for n in range(100)]
        writer = BatchClient(with_interceptor(client, _NotRunning()), service.name, task_queue=service.queue)
        results = await writer.write_many(requests)
    assert [_outcome(result) for result in results] == ["written"] * 100
    assert [row["n"] for row in sink.rows["entries"]] == list(range(100))


class _Unanswered(Interceptor):
    """No update is ever answered."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()

    def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:
        begun = self.begun

        class Calls(OutboundInterceptor):
            async def start_update_with_start_workflow(self, input: StartWorkflowUpdateWithStartInput) -> NoReturn:
                begun.set()
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError as err:
                    raise WorkflowUpdateRPCTimeoutOrCancelledError from err  # as the SDK's update does
                raise AssertionError("an event that is never set")

        return Calls(next)


async def test_a_worker_that_stops_before_its_shards_have_answered_ends_in_order(client: Client) -> None:
    unanswered = _Unanswered()

    class Closed(MemorySink):
        closed = False

        async def close(self) -> None:
            self.closed = True

    sink = Closed()
    connected = with_interceptor(client, unanswered)
    async with Worker(connected, task_queue="stops-soon", plugins=[BatcherPlugin(sink, name="stops-soon")]):
        await unanswered.begun.wait()
    assert sink.closed


def _outcome(result: Confirmation | WriteError) -> str:
    return result.outcome if isinstance(result, Confirmation) else type(result).__name__


async def test_many_requests_that_cannot_be_handed_over_each_say_so(client: Client) -> None:
    writer = BatchClient(client, "nobody-there", task_queue="nobody-there")
    results = await writer.write_many([Record("entries", {"n": n}) for n in range(5)], timeout=timedelta(seconds=1))
    assert [_outcome(result) for result in results] == ["WriteNotSubmitted"] * 5
