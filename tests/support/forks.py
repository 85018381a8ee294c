"""Commands in processes of their own that need not import everything again.

A start of `temporal-batching` costs most of a second of CPU, nearly all of it for imports, and what most tests run with
it takes a tenth of that. So one process imports what a command needs, and forks for each of them. The rest is as if the
script had been executed: arguments, environment, output, signals and exit status are the process's own. That the script
runs by itself is for a test that executes it.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import runpy
import sys
import tempfile
from collections.abc import Mapping, Sequence
from io import TextIOWrapper
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import cast

NEEDED = ["temporal_batching.cli.app", "temporal_batching.service", "temporal_batching.sinks.sql", "psycopg"]

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([*NEEDED, __name__])


class Forked:
    """A forked command, as `asyncio.subprocess.Process` shows one."""

    def __init__(self, process: BaseProcess, stdout: asyncio.StreamReader) -> None:
        assert process.pid is not None
        self.pid = process.pid
        self.stdout: asyncio.StreamReader | None = stdout
        self._process = process
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(process.sentinel, self._end)

    @property
    def returncode(self) -> int | None:
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._process.sentinel)
        self._process.join()
        assert self._process.exitcode is not None
        self._ended.set_result(self._process.exitcode)
        self._process.close()


def get_ready() -> None:
    """Starts what forks: with the environment of now, so that it keeps none of a test's."""
    forkserver.ensure_running()


async def fork(program: Sequence[str], *, directory: Path, environment: Mapping[str, str]) -> Forked:
    """Runs a Python script, which leads a process group of its own.

    Args:
        program: The script's path, and its arguments.
        directory: Where it runs.
        environment: All of its variables.
    """
    reads, writes = _FORKS.Pipe(duplex=False)
    with reads, writes:
        process = _FORKS.Process(target=_become, args=(list(program), directory, dict(environment), writes))
        process.start()
        reader = asyncio.StreamReader()
        pipe = os.fdopen(os.dup(reads.fileno()))
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    return Forked(process, reader)


def _become(program: list[str], directory: Path, environment: dict[str, str], output: Connection) -> None:
    """Makes this process one that was started for the script."""
    os.setsid()
    os.chdir(directory)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(output.fileno(), stream.fileno())
        cast("TextIOWrapper", stream).reconfigure(write_through=True)
    output.close()
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # follows TMPDIR
    sys.argv[:] = program
    sys.path[0] = str(Path(program[0]).resolve().parent)
    gc.freeze()  # what is shared with the other processes is not copied when garbage is collected
    runpy.run_path(program[0], run_name="__main__")
