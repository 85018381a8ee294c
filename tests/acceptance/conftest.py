"""The real commands, in processes of their own, against a development server on a free port."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from temporalio.client import Client
from tests.support import forks
from tests.support.typescript import NPM
from tests.support.waiting import assert_eventually

from temporal_batching import BatcherHandle, BatcherNotRunning
from temporal_batching.testing.servers import FAST, free_port, temporal_server

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 90.0
COMMAND = str(Path(sys.executable).parent / "temporal-batching")
SERVICES = {
    "batcher worker": "batcher-service/worker.py",
    "batcher starter": "batcher-service/starter.py",
    "main worker": "main-service/worker.py",
    "main starter": "main-service/starter.py",
}


BESIDE = ROOT / ".tools" / "uv" / "bin" / "uv"
UV = str(BESIDE) if BESIDE.exists() else shutil.which("uv")
"""The `uv` that this checkout was set up with, if it was by one."""


@dataclass
class Process:
    """A command that runs: its output so far, and a way to wait for more.

    It leads a process group, as a command in a terminal does: `uv run` is not the only one in it.
    """

    raw: asyncio.subprocess.Process | forks.Forked
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._more = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    async def _read(self) -> None:
        assert self.raw.stdout is not None
        async for line in self.raw.stdout:
            self.lines.append(line.decode().rstrip("\n"))
            self._more.set()
        self._more.set()

    async def says(self, pattern: str) -> str:
        """Waits for a line; fails with what was said instead."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while True:
                    self._more.clear()
                    for line in self.lines:
                        if re.search(pattern, line):
                            return line
                    if self._reader.done():
                        break
                    await self._more.wait()
        pytest.fail(f"no line like {pattern!r} in:\n{self.output}")

    async def ends(self) -> int:
        async with asyncio.timeout(PATIENCE):
            code = await self.raw.wait()
            await self._reader
        return code

    async def stopped_by(self, which: signal.Signals) -> int:
        self.signal(which)
        return await self.ends()

    def signal(self, which: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.raw.pid, which)


Start = Callable[..., Awaitable[Process]]
FORKED = {"temporal-batching": COMMAND, **SERVICES}


def _executed(name: str) -> list[str]:
    """The program that a name of a command stands for."""
    if name == "uv run":
        assert UV is not None
        return [UV, "run"]
    return [{"npm": str(NPM), "python": sys.executable}.get(name, name)]


@pytest.fixture(scope="session")
async def temporal(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A server that suggests to continue as new early, so that a small load brings many runs."""
    suggest_early = ("--dynamic-config-value", "limit.historyCount.suggestContinueAsNew=80")
    async with temporal_server(
        directory=tmp_path_factory.mktemp("temporal"),
        port=free_port(),
        ui_port=free_port(),
        options=(*FAST, *suggest_early),
    ) as server:
        yield server.address


async def serves(temporal: str, name: str, *, shards: int = 1) -> None:
    """Waits until the batcher's worker answers for every shard: its tables are there as well."""
    batcher = BatcherHandle(await Client.connect(temporal), name, shards=shards)

    async def answers() -> None:
        try:
            await batcher.stats()
        except BatcherNotRunning as err:
            raise AssertionError(str(err)) from None

    await assert_eventually(answers, within=PATIENCE)


@pytest.fixture(scope="session")
def forking() -> None:
    """What forks for the commands of all tests is ready."""
    forks.get_ready()


@pytest.fixture
async def start(tmp_path: Path, forking: None) -> AsyncIterator[Start]:
    """Starts commands with an environment of their own, and ends them with the test.

    `temporal-batching` and the services are forked from a process that has imported what they need. `COMMAND` executes
    the installed script, and `python` a service's.
    """
    processes: list[Process] = []

    async def start(*command: str, **variables: str) -> Process:
        name, *options = command
        foreign = ("BATCHING_", "TEMPORAL_", "MAIN_TASK_QUEUE")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        nobodys = tmp_path / "no-profile.toml"
        nobodys.touch()
        environment |= {"TEMPORAL_CONFIG_FILE": str(nobodys), "PYTHONUNBUFFERED": "1"} | variables
        raw: asyncio.subprocess.Process | forks.Forked
        if script := FORKED.get(name):
            raw = await forks.fork([script, *options], directory=ROOT, environment=environment)
        else:
            raw = await asyncio.create_subprocess_exec(
                *_executed(name),
                *options,
                cwd=ROOT,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        processes.append(Process(raw))
        return processes[-1]

    yield start
    for process in processes:
        if process.raw.returncode is None:
            process.signal(signal.SIGKILL)
    for process in processes:
        await process.ends()
