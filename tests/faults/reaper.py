"""Ends what a run of these tests leaves behind, however the run itself ends: SIGKILL and a closed terminal included.

`watch` starts a process that waits for the end of ours. It then kills whatever carries the run's mark in its
environment, which our children inherit, and stops the PostgreSQL servers it was told of, which hide theirs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

MARK = "TESTS_RUN"
ROOT = Path(__file__).resolve().parents[2]


class Reaper:
    """The line to the process that watches us."""

    def __init__(self, line: IO[str]) -> None:
        self._line = line

    def clear_away(self, directory: Path) -> None:
        """Has a PostgreSQL server's directory, the server in it included, removed after us."""
        print(directory, file=self._line, flush=True)


@contextlib.contextmanager
def watch() -> Iterator[Reaper]:
    """Watches this process until its end, or that of the block."""
    before = os.environ.get(MARK)
    mark = uuid.uuid4().hex
    # Not marked itself, in a session of its own: what ends us does not end it.
    watcher = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.reaper", mark],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert watcher.stdin is not None
    os.environ[MARK] = mark
    try:
        yield Reaper(watcher.stdin)
    finally:
        os.environ.pop(MARK)
        if before is not None:
            os.environ[MARK] = before
        watcher.stdin.close()
        watcher.wait()


def _reap(mark: str) -> None:
    directories = [Path(line.rstrip("\n")) for line in sys.stdin]  # its end is our parent's
    for pid in _marked(mark):
        _kill(pid, signal.SIGKILL)
    for directory in directories:
        for file in directory.glob("*/postmaster.pid"):
            _kill(int(file.read_text().split()[0]), signal.SIGQUIT)
        shutil.rmtree(directory, ignore_errors=True)


def _marked(mark: str) -> Iterator[int]:
    wanted = f"{MARK}={mark}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended meanwhile, or somebody else's
            if wanted in (process / "environ").read_bytes().split(b"\0"):
                yield int(process.name)


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


if __name__ == "__main__":
    _reap(sys.argv[1])
