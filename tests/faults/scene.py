"""The scene of a test: a batcher's workers as processes, callers that keep asking, and the result of each."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowHandle, WorkflowHistoryEventFilterType
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError
from temporalio.worker import Worker

from temporal_batching import BatcherHandle, BatcherNotRunning, BatcherStats, GatewayPlugin
from temporal_batching.routing import batcher_workflow_id
from tests.faults.auditing import TABLE, Asked, assert_callers_were_told_the_truth, create_table, verdicts
from tests.faults.callers import Leaver
from tests.faults.changing import TABLES, assert_rows_were_changed_once, change_of, create_changing_tables
from tests.faults.processes import Process, command, python
from tests.faults.worker import Trouble
from tests.support.callers import CALLERS, WAYS_IN, Caller, CallerResult, Job, Write
from tests.support.databases import TestDatabase
from tests.support.fault_points import FaultPoint
from tests.support.waiting import assert_eventually

NewScene = Callable[..., Awaitable["Scene"]]

LISTENERS = 40
"""Callers that we listen to at a time, in the order they were asked: the server bounds its long polls."""


class Scene:
    """One batcher, its callers, its database, and a record of everything that was asked."""

    def __init__(self, client: Client, database: TestDatabase, directory: Path, *, shards: int) -> None:
        self.client = client
        self.database = database
        self.shards = shards
        self.name = f"f{uuid4().hex[:10]}"
        self.asked: list[Asked] = []
        self.returning = True  # every other write asks for what its rows became
        self.changes = False  # whether every write also adds to, updates, replaces or deletes a row
        self.sticky = 10.0  # seconds that a caller's task waits for the worker that had it before
        self._directory = directory / self.name
        self._directory.mkdir()
        self._numbers = itertools.count()
        self._processes: list[Process] = []
        self._waiting: set[asyncio.Task[None]] = set()
        self._failures: list[str] = []
        self._listeners = asyncio.Semaphore(LISTENERS)
        self._stack = AsyncExitStack()
        self._cleared = False

    @property
    def queue(self) -> str:
        return f"{self.name}-batcher"

    @property
    def callers_queue(self) -> str:
        return f"{self.name}-callers"

    @property
    def trouble_file(self) -> Path:
        """While this file is there, a worker's database has the trouble that the worker was started with."""
        return self._directory / "trouble"

    @property
    def handle(self) -> BatcherHandle:
        return BatcherHandle(self.client, self.name, shards=self.shards, task_queue=self.queue)

    async def set(self, *, callers: bool) -> None:
        create_table(self.database)
        if self.changes:
            create_changing_tables(self.database)
        if callers:
            plugin = GatewayPlugin(name=self.name, shards=self.shards, task_queue=self.queue)
            worker = Worker(self.client, task_queue=self.callers_queue, workflows=[*CALLERS, Leaver], plugins=[plugin])
            await self._stack.enter_async_context(worker)

    async def clear(self) -> None:
        if self._cleared:
            return
        self._cleared = True
        for task in self._waiting:
            task.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)
        for process in self._processes:
            await process.kill()
        await self._stack.aclose()
        for shard in range(self.shards):
            with contextlib.suppress(RPCError):
                await self.client.get_workflow_handle(batcher_workflow_id(self.name, shard)).terminate()

    # Workers

    async def start_batcher(
        self,
        *,
        fault: FaultPoint | None = None,
        after: int = 0,
        trouble: Trouble | None = None,
        source: Path | None = None,
        url: str = "",
        version: tuple[str, str] | None = None,
        another: bool = False,
        answers: bool = True,
        **policy: str,
    ) -> Process:
        """Starts a worker of the batcher, and waits until its shards answer.

        Args:
            fault: Where it kills itself; nowhere by default.
            after: How often it passes there before.
            trouble: What its SQLite file suffers while `trouble_file` is there.
            source: The library it runs; this checkout's by default.
            url: Its database; the scene's by default.
            version: Its deployment and its build id; none by default.
            another: Whether it runs a library whose shards give other commands.
            answers: Whether to wait for the shards: none answers before a version is current.
            policy: Its limits, in the words of its settings.
        """
        settings = {"linger": "500ms", "retry_initial": "200ms", "retry_max": "1s", **policy}
        variables = {f"BATCHING_{name.upper()}": value for name, value in settings.items()}
        if self.changes:
            variables["BATCHING_TABLES"] = TABLES
        variables |= {
            "BATCHING_NAME": self.name,
            "BATCHING_TASK_QUEUE": self.queue,
            "BATCHING_SHARDS": str(self.shards),
            "BATCHING_SINK": url or self.database.url,
        }
        if version is not None:
            variables |= {"BATCHING_DEPLOYMENT_NAME": version[0], "BATCHING_BUILD_ID": version[1]}
        program = python("tests.faults.version") if another else command("worker")
        if fault is not None or trouble is not None:
            program = python("tests.faults.worker")
            variables |= {"FAULT_POINT": fault or "", "FAULT_AFTER": str(after)}
            variables |= {"FAULT_TROUBLE": trouble or "", "FAULT_WHILE": str(self.trouble_file)}
        elif source is not None:
            program = python("temporal_batching.cli", "worker")
            variables["PYTHONPATH"] = str(source)
        process = await self._start(program, **variables)
        await process.says(r"Batcher")
        if answers:
            await self.until_shards_answer()
        return process

    async def until_pending(self, count: int) -> None:
        """Waits until so many requests wait in all shards together."""

        async def pending() -> None:
            waiting = sum(one.pending for one in await self.stats())
            assert waiting == count, f"{waiting} wait, not {count}"

        await assert_eventually(pending, within=30)

    def logs(self) -> str:
        """What all processes of this scene have logged."""
        return "\n".join(process.log.read_text(errors="replace") for process in self._processes)

    async def start_main_worker(self) -> Process:
        names = (self.callers_queue, self.name, self.queue, str(self.shards), str(self.sticky))
        process = await self._start(python("tests.faults.main_worker", *names))
        await process.says("Main worker")
        return process

    def log(self, name: str) -> Path:
        """Where something of this scene may log."""
        return self._directory / f"{name}.log"

    async def _start(self, program: list[str], **variables: str) -> Process:
        log = self.log(f"process-{len(self._processes)}")
        variables["TEMPORAL_ADDRESS"] = self.client.service_client.config.target_host
        self._processes.append(await Process.start(program, log, **variables))
        return self._processes[-1]

    async def until_shards_answer(self) -> None:
        async def answers() -> None:
            try:
                async with asyncio.timeout(2):
                    await self.handle.stats()
            except (BatcherNotRunning, RPCError, TimeoutError) as err:
                raise AssertionError(f"no shard answers: {err}") from err

        await assert_eventually(answers, within=40)

    async def stats(self) -> list[BatcherStats]:
        return await self.handle.stats()

    # Callers

    def ask(
        self,
        way_in: str,
        *,
        request_id: str = "",
        again: Asked | None = None,
        padding: int = 0,
        poison: list[Any] | None = None,
        **options: float,
    ) -> Asked:
        """Starts a caller with one write of one to three records, and of one more that is bad, if there is to be one.

        Args:
            way_in: How it reaches the batcher.
            request_id: One of its own by default.
            again: Another caller's write, that this one asks for as well.
            padding: Characters to make each record so much longer.
            poison: The bad one, as [table, values].
            options: How long it waits, and an attempt of its, as `Job` has them.
        """
        asked, write = self.new_write(way_in, request_id=request_id, again=again, padding=padding)
        write.rows += [poison] if poison else []
        job = self.job(way_in, write, **options)
        task = asyncio.create_task(self._await(asked, job))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)
        return asked

    def new_write(
        self, way_in: str, *, request_id: str = "", again: Asked | None = None, padding: int = 0
    ) -> tuple[Asked, Write]:
        """A write that somebody is going to ask for, on record already."""
        number = next(self._numbers)
        # Ten keys for each way in, and none for two: a shard reads signals that came with an update before it.
        key, records, content = f"{way_in}-{number % 10}", 1 + number % 3, f"content {number}" + "x" * padding
        if again is not None:
            request_id, key, records, content = again.request_id, again.key, again.records, again.content
        elif request_id:
            key = ""
        request_id = request_id or f"{self.name}-{number}"
        # The first of two with one id decides for both.
        returning = ["number", "position"] if self.returning and number % 2 else []
        rows: list[list[Any]] = [
            [TABLE, {"request_id": request_id, "position": n, "content": content}, returning] for n in range(records)
        ]
        if self.changes and key:
            rows += change_of(content, key, request_id, returning=bool(returning))
        asked = Asked(f"{way_in} {number}", way_in, request_id, key, records, content)
        self.asked.append(asked)
        return asked, Write(rows, key=key, request_id=request_id)

    def job(self, way_in: str, write: Write, *, timeout: float = 60.0, **options: Any) -> Job:
        return Job(self.name, self.queue, way_in, [write], shards=self.shards, timeout=timeout, **options)

    def ask_each(self, ways_in: Sequence[str] = WAYS_IN, *, count: int = 1, **options: Any) -> list[Asked]:
        """``count`` callers by each way in."""
        return [self.ask(way_in, **options) for _ in range(count) for way_in in ways_in]

    async def _await(self, asked: Asked, job: Job) -> None:
        while True:
            try:
                handle = await self.client.start_workflow(
                    Caller.run,
                    job,
                    id=f"{self.name}-{asked.caller}",
                    task_queue=self.callers_queue,
                    id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                    execution_timeout=timedelta(minutes=4),
                )
                async with self._listeners:
                    await self._listen(asked, handle)
            except (RPCError, RuntimeError):  # the server is down
                await asyncio.sleep(0.2)
            # A long poll may also end without an event.
            if asked.result is not None or asked.failed:
                return

    async def start(self, run: Any, arg: Any, asked: Asked) -> WorkflowHandle[Any, Any]:
        """Starts a caller of another kind; the test has to read its result itself."""
        handle: WorkflowHandle[Any, Any] = await self.client.start_workflow(
            run,
            arg,
            id=f"{self.name}-{asked.caller}",
            task_queue=self.callers_queue,
            execution_timeout=timedelta(minutes=4),
        )
        return handle

    async def attempts(self, asked: Asked) -> int:
        """How many attempts the caller's activity took."""
        handle = self.client.get_workflow_handle(f"{self.name}-{asked.caller}")
        started = [
            event.activity_task_started_event_attributes.attempt
            async for event in handle.fetch_history_events()
            if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED
        ]
        return max(started)

    async def waited(self, asked: Asked) -> float:
        """Seconds from a caller's write to its answer, both as Temporal recorded them.

        A timeout counts from the write. With forty callers at once and little CPU, the first workflow task of a caller
        was seen to take up to nine seconds, before there was a write at all.
        """
        handle = self.client.get_workflow_handle(f"{self.name}-{asked.caller}")
        moments: dict[int, list[float]] = {}
        async for event in handle.fetch_history_events():
            moments.setdefault(event.event_type, []).append(event.event_time.ToNanoseconds() / 1e9)
        left = moments[EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED][0]
        return moments[EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED][-1] - left

    async def _listen(self, asked: Asked, handle: WorkflowHandle[Any, Any]) -> None:
        closes = WorkflowHistoryEventFilterType.CLOSE_EVENT
        async for event in handle.fetch_history_events(wait_new_event=True, event_filter_type=closes):
            if event.event_type != EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED:
                asked.failed = EventType.Name(event.event_type)
                self._failures.append(f"{asked.request_id} ended with {asked.failed}")
                return
            result = event.workflow_execution_completed_event_attributes.result.payloads
            ((answer,),) = await self.client.data_converter.decode(result, [list[CallerResult]])
            # By the server's clock: we may learn of it later.
            asked.result, asked.notified_at = answer, event.event_time.ToNanoseconds() / 1e9

    @contextlib.asynccontextmanager
    async def load(self, rate: float, ways_in: Sequence[str] = WAYS_IN, **options: Any) -> AsyncIterator[None]:
        """Callers at a steady rate for the length of the block."""

        async def keep_asking() -> None:
            for way_in in itertools.cycle(ways_in):
                self.ask(way_in, **options)
                await asyncio.sleep(1 / rate)

        task = asyncio.create_task(keep_asking())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def unanswered(self) -> int:
        return sum(one.result is None for one in self.asked)

    async def until_notified(self, asked: Sequence[Asked] | None = None, *, within: float = 90.0) -> None:
        some = self.asked if asked is None else asked

        async def notified() -> None:
            assert not self._failures
            missing = [one.request_id for one in some if one.result is None]
            assert not missing, f"{len(missing)} of {len(some)} were not notified: {missing[:5]}"

        await assert_eventually(notified, within=within)

    async def until_some_notified(self, more: int = 1, *, within: float = 60.0) -> None:
        """Waits until some more are notified."""
        before = len(self.asked) - self.unanswered()

        async def notified() -> None:
            assert len(self.asked) - self.unanswered() >= before + more

        await assert_eventually(notified, within=within)

    def slowest(self, since: float) -> Iterator[str]:
        """For each way in, the longest time from a moment to the notification of a caller."""
        for way_in in WAYS_IN:
            times = [one.notified_at - since for one in self.asked if one.way_in == way_in and one.notified_at > since]
            if times:
                yield f"{way_in} {max(times):.1f} s"

    def verdicts(self) -> dict[str, int]:
        return verdicts(self.asked)

    async def audit(self, *, within: float = 60.0) -> None:
        """Waits until nothing is under way any more, and compares the results with what is there."""
        await self.until_notified(within=within)

        async def nothing_is_under_way() -> None:
            try:
                stats = await self.stats()
            except (BatcherNotRunning, RPCError) as err:
                raise AssertionError(str(err)) from err
            assert [one.dedup_ids for one in stats] == [0] * self.shards

        await assert_eventually(nothing_is_under_way, within=within)
        await assert_callers_were_told_the_truth(self.client, self.name, self.shards, self.database, self.asked)
        if self.changes:
            assert_rows_were_changed_once(self.database, self.asked)


def results(asked: Sequence[Asked]) -> list[CallerResult]:
    return [one.result for one in asked if one.result is not None]
