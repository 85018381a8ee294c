"""The tutorial, as a reader follows it: its files, its commands, in a project with the built wheel and nothing else."""

from __future__ import annotations

import asyncio
import re
import shlex
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.acceptance.conftest import ROOT, Process
from tests.package.conftest import Environment, Install

from temporal_batching.testing.servers import free_port

pytestmark = pytest.mark.package

PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r'^```python title="([^"]+)"\n(.*?)^```$', PAGE, re.MULTILINE | re.DOTALL))
COMMANDS = [
    line for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL) for line in block.splitlines()
]
INSTALLATION = ["python -m venv .venv", ". .venv/bin/activate", 'pip install "temporal-batching[demo]"']
SERVER = "temporal server start-dev"


class Project:
    """The reader's directory, and their terminals."""

    def __init__(self, directory: Path, environment: Environment) -> None:
        self.directory, self.environment = directory, environment
        self.address = f"127.0.0.1:{free_port()}"
        for name, text in FILES.items():
            (directory / name).write_text(text.replace("localhost:7233", self.address), encoding="utf-8")

    @asynccontextmanager
    async def terminal(self, command: str) -> AsyncIterator[Process]:
        program, *arguments = shlex.split(command)
        if command == SERVER:
            port = self.address.rpartition(":")[2]
            arguments += ["--ip", "127.0.0.1", "--port", port, "--ui-port", str(free_port())]
        raw = await asyncio.create_subprocess_exec(
            str(self.environment.binaries / program),
            *arguments,
            cwd=self.directory,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=self.environment.variables | {"TEMPORAL_ADDRESS": self.address},
            start_new_session=True,
        )
        process = Process(raw)
        try:
            yield process
        finally:
            if raw.returncode is None:
                process.signal(signal.SIGKILL)
            await process.ends()

    async def output_of(self, command: str) -> str:
        async with self.terminal(command) as process:
            assert await process.ends() == 0, process.output
            return process.output


async def test_the_tutorial_leads_to_a_first_batch(install: Install, tmp_path: Path) -> None:
    assert COMMANDS[:3] == INSTALLATION
    assert COMMANDS[3:8] == [SERVER, "python tables.py", "python batcher.py", "python worker.py", "python shop.py"]
    count, stats, audit = COMMANDS[8:]
    project = Project(tmp_path, install("demo"))
    async with project.terminal(SERVER) as server:
        await server.says("(?i)(temporal )?server:")
        await project.output_of("python tables.py")
        async with project.terminal("python batcher.py") as batcher, project.terminal("python worker.py") as worker:
            lines = (await project.output_of("python shop.py")).splitlines()
            assert len(lines) == 20, batcher.output + worker.output
            said = r"order-\d+: written in batch main-0\.[0-9a-f]{8}/\d+, \d+ requests"
            assert all(re.fullmatch(said, line) for line in lines), lines
            assert len({line.split()[5] for line in lines}) <= 5
            assert await project.output_of(count) == "[(20,)]"
            assert "main-0" in await project.output_of(stats)
            await project.output_of(audit)
            again = (await project.output_of("python shop.py")).splitlines()
            assert all(": duplicate in batch" in line for line in again), again
            assert await project.output_of(count) == "[(20,)]"
            for process in (worker, batcher):
                assert await process.stopped_by(signal.SIGINT) == 0, process.output
