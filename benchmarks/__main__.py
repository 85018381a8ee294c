"""`python -m benchmarks`: the ways of writing beside each other, on servers from wheels.

python -m benchmarks [--quick] [--only direct,local] [--writes 2000] [--callers 400] [--no-curves]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.measure import WAYS, Load, Result, measure
from benchmarks.report import Point, Report, print_table
from benchmarks.servers import Postgres
from temporal_batching.embedded import find_temporal, postgres_server

REPORT = Path(__file__).parent / "report"
QUICK = Load(writes=400, callers=200, warm_up=100, idle_seconds=2.0)
FULL = Load()
MANY = 10
"""A program writes so many times more, or it would be over before it is measured."""


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="What batching costs and saves.")
    parser.add_argument("--quick", action="store_true", default=os.environ.get("QUICK", "") not in ("", "0"))
    parser.add_argument("--only", help=f"ways, separated by commas: {', '.join(WAYS)}")
    parser.add_argument("--writes", type=int)
    parser.add_argument("--callers", type=int)
    parser.add_argument("--no-curves", action="store_true", help="only the comparison")
    parser.add_argument("--report", type=Path, default=REPORT, help="the directory for report.json and report.html")
    options = parser.parse_args(given)
    options.ways = list(WAYS) if options.only is None else options.only.split(",")
    unknown = [way for way in options.ways if way not in WAYS]
    if unknown:
        parser.error(f"unknown ways {unknown}: there are {', '.join(WAYS)}")
    return options


def curve_loads() -> list[tuple[str, str, float, str, Load]]:
    """What is measured besides: curve, line, x, way and load."""
    found: list[tuple[str, str, float, str, Load]] = []
    few = Load(warm_up=100, idle_seconds=2.0)
    for callers in (1, 10, 100, 1000):
        load = replace(few, writes=max(30, min(1000, callers * 10)), callers=callers, linger=0.0)
        found += [("callers in flight", way, callers, way, load) for way in ("direct", "activity", "local")]
    for size in (1, 10, 100, 1000):
        load = replace(few, writes=min(20_000, 500 * size), batch_size=size)
        found.append(("records in a batch", "write_many", size, "write_many", load))
    for size in (100, 1_000, 10_000, 100_000):
        load = replace(few, writes=min(10_000, 20_000_000 // size), record_bytes=size)
        found.append(("bytes in a record", "write_many", size, "write_many", load))
    for shards in (1, 2, 4, 8):
        found.append(("shards", "write_many", shards, "write_many", replace(few, writes=20_000, shards=shards)))
    return found


async def run(options: argparse.Namespace, console: Console) -> Report:
    load = QUICK if options.quick else FULL
    load = replace(load, writes=options.writes or load.writes, callers=options.callers or load.callers)
    with tempfile.TemporaryDirectory(prefix="bench-pg-") as name:
        async with postgres_server(directory=Path(name)) as url:
            postgres = Postgres(url, Path(name))
            report = Report(machine(postgres))
            columns = (TextColumn("{task.description:34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            with Progress(*columns, console=console) as progress:
                for way in options.ways:
                    await _one(report, way, way, load, postgres, progress)
                    report.save(options.report)
                if not options.quick and not options.no_curves:
                    for curve, line, x, way, at in curve_loads():
                        result = await _one(None, f"{curve} {x:g}, {way}", way, at, postgres, progress, report)
                        if result is not None:
                            report.points.append(Point(curve, line, x, result))
                            report.save(options.report)
            postgres.close()
    return report


async def _one(
    into: Report | None,
    title: str,
    way: str,
    load: Load,
    postgres: Postgres,
    progress: Progress,
    failures_to: Report | None = None,
) -> Result | None:
    if into is not None and way == "write_many":
        load = replace(load, writes=load.writes * MANY)
    task = progress.add_task(title, total=load.writes)

    def show(done: int) -> None:
        progress.update(task, completed=done)

    try:
        result = await measure(way, load, postgres, show)
    except RuntimeError as err:
        progress.console.print(f"[red]{title}: {err}", highlight=False)
        (into or failures_to or Report({})).failures[title] = str(err)[:300]
        return None
    finally:
        progress.update(task, completed=load.writes)
    if into is not None:
        into.results.append(result)
    return result


def machine(postgres: Postgres) -> dict[str, object]:
    """Where it was measured."""
    version = subprocess.run([find_temporal(), "--version"], capture_output=True, text=True, check=False).stdout
    busy = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    return {
        "measured at": datetime.now(UTC).isoformat(timespec="minutes"),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "load average at the start": busy,
        "Python": platform.python_version(),
        "Temporal": version.strip(),
        **{f"PostgreSQL {name}": value for name, value in postgres.settings().items()},
    }


def main() -> None:
    options = arguments()
    console = Console()
    report = asyncio.run(run(options, console))
    report.save(options.report)
    print_table(report, console)
    console.print(f"Report: {options.report / 'report.html'}", soft_wrap=True)


if __name__ == "__main__":
    main()
