"""Records histories of today's workflows for later versions to replay; see README.md."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
import tempfile
from collections.abc import Sequence
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

from temporalio.client import Client, WorkflowFailureError

from temporal_batching import BatchPolicy, MemorySink, Record
from tests.conftest import CONTINUE_SOON, server
from tests.support.callers import EVERY_WAY_IN, Listener
from tests.support.many_callers import OneOfMany
from tests.support.service import QUICK, Service, entry, running
from tests.support.versions import Deployment
from tests.support.waiting import assert_eventually

HISTORIES = Path(__file__).parent / "histories"
LONG = BatchPolicy(linger=timedelta(minutes=10))


_STICKY_QUEUE = re.compile(r"\d+@.+-[0-9a-f]{32}")
"""The name of a worker's own queue: its process and its machine."""


def without_machine(value: Any) -> Any:
    """A history without what only tells where it was recorded: replay looks at none of it."""
    if isinstance(value, str) and _STICKY_QUEUE.fullmatch(value):
        return "sticky"
    if isinstance(value, dict):
        tells = {"stackTrace": "", "identity": "recorder"}
        return {name: tells[name] if name in tells else without_machine(part) for name, part in value.items()}
    return [without_machine(part) for part in value] if isinstance(value, list) else value


class Recorder:
    """Writes histories into the folder of a version."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def save(self, client: Client, name: str, workflow_id: str, run_id: str | None = None) -> None:
        history = await client.get_workflow_handle(workflow_id, run_id=run_id).fetch_history()
        events = without_machine(json.loads(history.to_json()))
        (self._folder / f"{name}.json").write_text(json.dumps(events, indent=2) + "\n")

    async def save_shard(self, service: Service, name: str) -> None:
        """Every run of a shard."""
        run_id: str | None = (await service.shard().describe()).run_id
        number = 0
        while run_id:
            events = await service.events(run_id=run_id)
            suffix = f"-{number}" if number else ""
            await self.save(service.client, f"{name}-batcher{suffix}", service.shard().id, run_id)
            run_id = events[0].workflow_execution_started_event_attributes.continued_execution_run_id
            number += 1


async def pending(service: Service, number: int) -> None:
    async def check() -> None:
        assert (await service.stats()).pending == number

    await assert_eventually(check)


async def ways_in(client: Client, recorder: Recorder) -> None:
    """For each way in a caller that receives `written` and `rejected`, and its batcher."""
    for way_in in EVERY_WAY_IN:
        sink = MemorySink(reject=lambda request: "odd" if request.records[0].values["n"] % 2 else None)
        async with running(client, sink) as service:
            caller = await service.start(way_in, [entry(n) for n in range(4)])
            await caller.result()
            await recorder.save(client, f"{way_in}-caller", caller.id)
            await recorder.save_shard(service, way_in)


async def sink_down(client: Client, recorder: Recorder) -> None:
    """A batch that is set back, with and without doubt, and written in the end."""
    sink = MemorySink()
    sink.fail_next(2, committed=True)
    sink.fail_next(2)
    async with running(client, sink, QUICK) as service:
        await service.call("activity", [entry(n) for n in range(3)])
        await recorder.save_shard(service, "sink-down")


async def answers(client: Client, recorder: Recorder) -> None:
    """Withdrawn, expired, malformed and overloaded requests, and callers that are cancelled or too late."""
    async with running(client, MemorySink(), BatchPolicy(linger=QUICK.linger, max_pending=2)) as service:
        await service.handle.pause()
        for way_in in EVERY_WAY_IN:
            leaves = await service.start(way_in, [entry(1)])
            await pending(service, 1)
            await leaves.cancel()
            with contextlib.suppress(WorkflowFailureError):
                await leaves.result()
            await recorder.save(client, f"withdrawn-{way_in}-caller", leaves.id)
        waiting = [await service.start(way_in, [entry(2)], timeout=6.0) for way_in in ("activity", "signal")]
        await pending(service, 2)
        await service.call("signal", [entry(3)])
        listener = await service.run(Listener.run, 1)
        bad = {"request_id": "bad", "records": [], "reply_to": {"workflow_id": listener.id}}
        await service.shard().signal("add_write_request", [bad, 7])
        await service.shard().signal("no_such_signal")
        await listener.result()
        for caller in waiting:
            await caller.result()
            await recorder.save(client, f"expired-{'signal' if caller is waiting[1] else 'activity'}-caller", caller.id)
        await recorder.save_shard(service, "answers")


async def operating(client: Client, recorder: Recorder) -> None:
    """Configured, paused, resumed, flushed, drained."""
    async with running(client, MemorySink(), LONG) as service:
        await service.handle.configure(BatchPolicy(linger=timedelta(minutes=5), max_batch_size=3))
        await service.handle.pause()
        caller = await service.start("activity", [entry(n) for n in range(4)])
        await pending(service, 4)
        await service.handle.resume()
        await pending(service, 1)
        await service.handle.flush()
        await service.handle.drain()
        await caller.result()
        await recorder.save_shard(service, "operating")


async def late_policy(client: Client, recorder: Recorder) -> None:
    """A shard that a gateway started, and that asks its worker for the policy."""
    async with running(client, MemorySink(), QUICK, plugin_options={"start_shards": False}) as service:
        await service.call("local", [entry(1)])
        await recorder.save_shard(service, "late-policy")


async def parcels(client: Client, recorder: Recorder) -> None:
    """Many requests from a program, one of them rejected, in a parcel that is tried again."""
    sink = MemorySink(reject=lambda request: "odd" if request.records[0].values["n"] == 1 else None)
    sink.fail_next(1)
    async with running(client, sink, QUICK) as service:
        await service.writer.write_many([Record("entries", {"n": n}) for n in range(20)])
        await recorder.save_shard(service, "parcels")


async def many(client: Client, recorder: Recorder) -> None:
    """Many requests from a workflow, in parcels that are cut again and share keys; and a caller that is cancelled."""
    sink = MemorySink(reject=lambda request: "odd" if request.records[0].values["n"] == 1 else None)
    async with running(client, sink, BatchPolicy(linger=QUICK.linger, max_batch_size=30)) as service:
        caller = await service.start_many(requests=[OneOfMany("", {"n": 1})], count=130, keys=3)
        await caller.result()
        await recorder.save(client, "many-caller", caller.id)
        await service.handle.pause()
        leaves = await service.start_many(count=90, calls=2, max_batch_size=30)
        await pending(service, 180)
        await leaves.cancel()
        with contextlib.suppress(WorkflowFailureError):
            await leaves.result()
        await recorder.save(client, "withdrawn-many-caller", leaves.id)
        await recorder.save_shard(service, "many")


async def versions(client: Client, recorder: Recorder) -> None:
    """A run that ends because another version of the workers has become current, and its successor there."""
    deployment, sink = Deployment(client), MemorySink()
    async with running(client, sink, batcher=False, worker_options=deployment.options("v1")) as first:
        starting = asyncio.create_task(first.start_batcher())
        await deployment.make_current("v1")
        await starting
        await first.call("activity", [entry(1)])
        second = Service(client, sink, QUICK, name=first.name, worker_options=deployment.options("v2"))
        await second.start_batcher()
        try:
            await deployment.make_current("v2")

            async def there() -> None:
                found = await first.handle.version_of(0)
                assert found is not None
                assert found.version == deployment.version("v2")

            await assert_eventually(there, within=60)
            await first.call("activity", [entry(2)])
            await recorder.save_shard(first, "versions")
        finally:
            await second.stop_batcher()


async def continuing(client: Client, recorder: Recorder) -> None:
    """Runs that carry over what is pending, set back and undelivered."""
    sink = MemorySink()
    sink.fail_next(6)
    async with running(client, sink) as service:
        caller = await service.start("activity", [entry(n) for n in range(3)])
        other = await service.start("signal", [entry(n) for n in range(3)])
        async with asyncio.timeout(20):
            while (await service.stats()).continue_as_new < 2:
                await service.shard().signal("stir")
        await caller.result()
        await other.result()
        await recorder.save_shard(service, "continuing")


async def main(only: Sequence[str]) -> None:
    """Records all scenes, or those that are named."""
    folder = HISTORIES / version("temporal-batching")
    folder.mkdir(parents=True, exist_ok=True)
    recorder = Recorder(folder)
    with tempfile.TemporaryDirectory() as directory:
        async with server(Path(directory)) as client:
            for scene in (ways_in, sink_down, answers, operating, late_policy, parcels, many, versions):
                if not only or scene.__name__ in only:
                    await scene(client, recorder)
        if not only or continuing.__name__ in only:
            async with server(Path(directory), *CONTINUE_SOON) as client:
                await continuing(client, recorder)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
