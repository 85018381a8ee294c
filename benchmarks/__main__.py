"""`python -m benchmarks`: the ways of writing under the same load, on servers from wheels.

python -m benchmarks [--quick] [--only ways,writes] [--contenders direct,local] [--sink sqlite] [--writes 800]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import temporalio.service
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from benchmarks import report as reports
from benchmarks.databases import BenchDatabase, open_database
from benchmarks.measure import WAYS
from benchmarks.page import render
from benchmarks.plan import IDLE_SECONDS, PARTS, QUICK_PARTS, LeftOut, Part, Wanted, make_plan
from benchmarks.report import Report, print_tables
from benchmarks.targets import judge
from temporal_batching.testing.servers import find_temporal

REPORT = Path(__file__).parent / "report"
BUDGET_SECONDS = {False: 840.0, True: 175.0}
"""By quick or not: a part that would begin later is left out, and the report says so."""
REASON = 600
"""Characters of a failure that the report keeps."""


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="What batching costs and saves.")
    parser.add_argument("--quick", action="store_true", default=os.environ.get("QUICK", "") not in ("", "0"))
    parser.add_argument("--only", type=_names, metavar="PARTS", help=f"separated by commas: {', '.join(PARTS)}")
    parser.add_argument(
        "--contenders", type=_names, metavar="WAYS", default=list(WAYS), help=f"separated by commas: {', '.join(WAYS)}"
    )
    parser.add_argument("--sink", choices=("postgresql", "sqlite"), default="postgresql")
    parser.add_argument("--writes", type=int, help="of each contender, in full batches; write_many ten times as many")
    parser.add_argument("--callers", type=int, help="of the contenders, side by side")
    parser.add_argument("--idle-seconds", type=float, default=IDLE_SECONDS, help="how long the idle batcher is watched")
    parser.add_argument("--budget", type=float, help="seconds after which no further part is begun")
    parser.add_argument("--report", type=Path, default=REPORT, help="the directory for report.json and report.html")
    parser.add_argument(
        "--redraw", action="store_true", help="measure nothing: report.html and tables from report.json"
    )
    options = parser.parse_args(given)
    for names, known in ((options.only or [], PARTS), (options.contenders, WAYS)):
        if unknown := [name for name in names if name not in known]:
            parser.error(f"unknown {', '.join(unknown)}: there are {', '.join(known)}")
    return options


def _names(value: str) -> list[str]:
    return [name.strip() for name in value.split(",") if name.strip()]


def save(report: Report, directory: Path) -> None:
    report.targets = judge(report)
    report.save_json(directory)
    (directory / "report.html").write_text(render(report), encoding="utf-8")


class Run:
    """One run of the benchmark: every part in turn, none of which takes another down."""

    def __init__(
        self, options: argparse.Namespace, report: Report, database: BenchDatabase, progress: Progress
    ) -> None:
        self._report = report
        self._database = database
        self._progress = progress
        self._directory: Path = options.report
        self._until = time.monotonic() + (options.budget or BUDGET_SECONDS[options.quick])

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
        save(self._report, self._directory)

    def _show(self, task: TaskID, done: int) -> None:
        self._progress.update(task, completed=done)

    def _failed(self, part: Part, problem: str) -> None:
        self._report.failures[part.title] = problem[:REASON]
        self._progress.console.print(f"[red]{part.title} {problem[:REASON]}", highlight=False)


async def run(options: argparse.Namespace, console: Console) -> Report:
    current = asyncio.current_task()
    if current is not None:
        # As Ctrl-C: the servers are stopped in order.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, current.cancel)
    wanted = Wanted(
        parts=options.only or (QUICK_PARTS if options.quick else PARTS),
        ways=options.contenders,
        quick=options.quick,
        writes=options.writes,
        callers=options.callers,
        idle_seconds=options.idle_seconds,
    )
    columns = (TextColumn("{task.description:28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with tempfile.TemporaryDirectory(prefix="bench-db-") as name:
        async with open_database(options.sink, Path(name)) as database:
            report = Report(machine(database, wanted))
            with Progress(*columns, console=console) as progress:
                await Run(options, report, database, progress).all(make_plan(wanted))
            report.machine["load average at the end"] = _busy()
    return report


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


def main() -> None:
    options = arguments()
    # Into a file or a pipe, wide enough for the table.
    console = Console(width=None if sys.stdout.isatty() else 160)
    if options.redraw:
        report = reports.load(options.report / "report.json")
    else:
        try:
            report = asyncio.run(run(options, console))
        except (KeyboardInterrupt, asyncio.CancelledError):
            console.print(f"Stopped; what was measured until then is in {options.report}", soft_wrap=True)
            raise SystemExit(130) from None
    save(report, options.report)
    print_tables(report, console)
    console.print(f"Report: {options.report / 'report.html'}", soft_wrap=True)


if __name__ == "__main__":
    main()
