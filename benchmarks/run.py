"""One run of the benchmark: every part in turn, and where it is measured."""

from __future__ import annotations

import asyncio
import os
import platform
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import temporalio.service
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from benchmarks.harness.databases import BenchDatabase, open_database
from benchmarks.plan import make_plan
from benchmarks.question import LeftOut, Part, Wanted
from benchmarks.report import Report
from temporal_batching.testing.servers import find_temporal

REASON = 600
"""Characters of a failure that the report keeps."""


class Run:
    """One run of the benchmark: every part in turn, none of which takes another down."""

    def __init__(
        self, report: Report, directory: Path, database: BenchDatabase, budget: float, progress: Progress
    ) -> None:
        self._report = report
        self._database = database
        self._progress = progress
        self._directory = directory
        self._until = time.monotonic() + budget

    async def all(self, parts: Sequence[Part]) -> None:
        async with asyncio.TaskGroup() as concurrent:
            for part in parts:
                if part.concurrent:
                    concurrent.create_task(self._one(part))
            for part in parts:
                if part.concurrent:
                    continue
                if time.monotonic() > self._until:
                    self._report.failures[part.title] = "left out: the time was up"
                    continue
                await self._one(part)

    async def _one(self, part: Part) -> None:
        task = self._progress.add_task(part.title, total=part.steps)
        start = time.monotonic()
        try:
            async with asyncio.timeout(part.timeout):
                await part.run(self._report, self._database, lambda done: self._show(task, done))
        except LeftOut as err:
            self._failed(part, f"left out: {err}")
        except TimeoutError:
            self._failed(part, f"failed: not done in {part.timeout:.0f} s")
        except Exception as err:  # whatever broke in one part, the others are worth having
            self._failed(part, f"failed: {err}")
        self._report.seconds[part.title] = round(time.monotonic() - start, 1)
        self._progress.update(task, completed=part.steps)
        self._report.save_json(self._directory)

    def _show(self, task: TaskID, done: int) -> None:
        self._progress.update(task, completed=done)

    def _failed(self, part: Part, problem: str) -> None:
        self._report.failures[part.title] = problem[:REASON]
        self._progress.console.print(f"[red]{part.title} {problem[:REASON]}", highlight=False)


async def run(
    wanted: Wanted, sink: Literal["postgresql", "sqlite"], budget: float, directory: Path, console: Console
) -> None:
    """Measures what is wanted; `report.json` in the directory has every part as soon as it is done."""
    current = asyncio.current_task()
    if current is not None:
        # As Ctrl-C: the servers are stopped in order.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, current.cancel)
    columns = (TextColumn("{task.description:38}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with tempfile.TemporaryDirectory(prefix="bench-db-") as name:
        async with open_database(sink, Path(name)) as database:
            report = Report(machine(database, wanted))
            report.save_json(directory)
            with Progress(*columns, console=console) as progress:
                await Run(report, directory, database, budget, progress).all(make_plan(wanted))
            report.machine["load average at the end"] = _busy()
            report.save_json(directory)


def machine(database: BenchDatabase, wanted: Wanted) -> dict[str, object]:
    """Where it was measured, and what would change the figures elsewhere."""
    version = subprocess.run([find_temporal(), "--version"], capture_output=True, text=True, check=False).stdout
    return {
        "measured at": datetime.now(UTC).isoformat(timespec="minutes"),
        "mode": "quick" if wanted.quick else "whole",
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "load average at the start": _busy(),
        "Python": platform.python_version(),
        "Python SDK": temporalio.service.__version__,
        "Temporal": f"{version.strip()}, in memory, GOGC={os.environ.get('GOGC', '100')}",
        "gRPC": "without gzip",
        **database.settings(),
    }


def _busy() -> str:
    return ", ".join(f"{load:.1f}" for load in os.getloadavg())
