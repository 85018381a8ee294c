"""An act: one batcher, its callers and its database, over some rounds of random kills, each with its audit."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from temporalio.client import Client

from tests.conftest import CONTINUE_SOON, PROMPT
from tests.faults.auditing import verdicts
from tests.faults.changing import TABLES
from tests.faults.processes import Postgres, Process, Temporal, command, fresh_database, temporal
from tests.faults.scene import Scene
from tests.soak.load import Load
from tests.soak.plan import LOAD_SECONDS, Kill, Round, Victim
from tests.support.databases import TestDatabase

SHARDS = 2
WITHIN = 90.0
"""Seconds in which every caller has its answer; they give up after 60 themselves."""

TASKS_AGAIN_SOON = ("--dynamic-config-value", 'history.defaultWorkflowTaskTimeout="2s"')
"""A workflow task whose worker died is given to another after 2 s instead of 10: more rounds in an hour."""


@dataclass(frozen=True)
class RoundReport:
    """What came of a round whose audit holds."""

    round: Round
    dialect: str
    verdicts: dict[str, int]
    seconds: float

    def __str__(self) -> str:
        kills = ", ".join(map(str, self.round.kills))
        result = ", ".join(f"{count} {verdict}" for verdict, count in sorted(self.verdicts.items()))
        return (
            f"round {self.round.number} (seed {self.round.seed}, {self.dialect}): killed {kills}; "
            f"{sum(self.verdicts.values())} callers: {result}; audit holds; {self.seconds:.1f} s"
        )


class Act:
    """The processes of an act, by what they are killed as."""

    def __init__(self, scene: Scene, server: Temporal, postgres: Postgres | None) -> None:
        self.scene = scene
        self._server = server
        self._postgres = postgres
        self._load = Load(scene)
        self._workers: dict[Victim, Process] = {}

    async def begin(self) -> None:
        self.scene.changes = True
        await self.scene.set(callers=False)
        self.scene.sticky = 1.0
        self._load.prepare()
        await asyncio.gather(self._start(Victim.BATCHER), self._start(Victim.CALLERS))

    async def play(self, planned: Round) -> RoundReport:
        """Kills under load, starts again, and audits when every caller has its answer.

        Raises:
            AssertionError: A promise is broken, or somebody still waits.
        """
        began, before = time.monotonic(), len(self.scene.asked)
        strikes = [asyncio.create_task(self._strike(kill)) for kill in planned.kills]
        async with self._load.running(planned.seed):
            await asyncio.sleep(LOAD_SECONDS)
        await asyncio.gather(*strikes)
        async with asyncio.timeout(WITHIN):
            await self._load.until_over()
        await self.scene.audit(within=WITHIN)
        result = verdicts(self.scene.asked[before:])
        return RoundReport(planned, self.scene.database.dialect, result, time.monotonic() - began)

    async def audit_as_operators_do(self) -> None:
        """Has the command itself audit the deployment.

        Raises:
            AssertionError: It finds something.
        """
        options = ["--complete", "--name", self.scene.name, "--task-queue", self.scene.queue]
        options += ["--sink", self.scene.database.url, "--address", self._server.address, "--table", TABLES]
        log = self.scene.log("audit")
        process = await Process.start(command("audit", *options), log)
        async with asyncio.timeout(WITHIN):
            code = await process.raw.wait()
        assert code == 0, f"temporal-batching audit ended with {code}:\n{log.read_text(errors='replace')}"

    async def _strike(self, kill: Kill) -> None:
        await asyncio.sleep(kill.at)
        if kill.victim is Victim.TEMPORAL:
            await self._server.kill()
        elif kill.victim is Victim.DATABASE:
            assert self._postgres is not None
            await self._postgres.crash()
        else:
            await self._workers[kill.victim].kill()
        await asyncio.sleep(kill.down)
        await self._start(kill.victim)

    async def _start(self, victim: Victim) -> None:
        if victim is Victim.TEMPORAL:
            await self._server.start()
        elif victim is Victim.DATABASE:
            assert self._postgres is not None
            await self._postgres.start()
        else:
            start = self._start_batcher if victim is Victim.BATCHER else self.scene.start_main_worker
            self._workers[victim] = await self._until_it_stays(start)

    async def _start_batcher(self) -> Process:
        return await self.scene.start_batcher(linger="200ms", retry_initial="100ms", retry_max="500ms")

    async def _until_it_stays(self, start: Callable[[], Awaitable[Process]]) -> Process:
        """As a supervisor does: a worker that finds its server down ends, and is started again."""
        for _ in range(10):
            with contextlib.suppress(AssertionError, TimeoutError):
                return await start()
            await asyncio.sleep(0.3)
        return await start()


@contextlib.asynccontextmanager
async def act(directory: Path, postgres: Postgres | None) -> AsyncIterator[Act]:
    """An act on PostgreSQL, or on a SQLite file of its own, with a Temporal of its own."""
    await asyncio.to_thread(directory.mkdir, parents=True)
    with contextlib.ExitStack() as stack:
        if postgres is None:
            url = f"sqlite:///{directory}/soak.db"
            database = TestDatabase("sqlite", url, sa.create_engine(url, poolclass=sa.NullPool))
        else:
            database = stack.enter_context(fresh_database(postgres, f"soak_{directory.name.replace('-', '_')}"))
        async with temporal(directory, *PROMPT, *CONTINUE_SOON, *TASKS_AGAIN_SOON) as server:
            scene = Scene(await Client.connect(server.address), database, directory, shards=SHARDS)
            playing = Act(scene, server, postgres)
            try:
                await playing.begin()
                yield playing
            finally:
                await scene.clear()


def total(reports: list[RoundReport]) -> Counter[str]:
    """What all callers received, counted."""
    result: Counter[str] = Counter()
    for report in reports:
        result.update(report.verdicts)
    return result
