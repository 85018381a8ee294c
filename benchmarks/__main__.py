"""`python -m benchmarks`: the ways of writing under the same load, on servers from wheels.

python -m benchmarks [--quick] [--only ways,writes] [--contenders direct,local] [--sink sqlite] [--writes 800]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import report as reports
from benchmarks.harness.measure import WAYS
from benchmarks.page import render
from benchmarks.plan import PARTS, QUICK_PARTS, judge
from benchmarks.published import publish
from benchmarks.question import IDLE_SECONDS, Wanted
from benchmarks.report import Report
from benchmarks.run import run
from benchmarks.tables import print_tables

REPORT = Path(__file__).parent / "report"
BUDGET_SECONDS = {False: 1020.0, True: 200.0}
"""By quick or not: a part that would begin later is left out, and the report says so."""


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
    parser.add_argument("--publish", action="store_true", help="also draw README's figure, from this report")
    options = parser.parse_args(given)
    for names, known in ((options.only or [], PARTS), (options.contenders, WAYS)):
        if unknown := [name for name in names if name not in known]:
            parser.error(f"unknown {', '.join(unknown)}: there are {', '.join(known)}")
    return options


def _names(value: str) -> list[str]:
    return [name.strip() for name in value.split(",") if name.strip()]


def main() -> None:
    options = arguments()
    # Into a file or a pipe, wide enough for the table.
    console = Console(width=None if sys.stdout.isatty() else 180)
    wanted = Wanted(
        parts=options.only or (QUICK_PARTS if options.quick else PARTS),
        ways=options.contenders,
        quick=options.quick,
        writes=options.writes,
        callers=options.callers,
        idle_seconds=options.idle_seconds,
    )
    stopped = False
    if not options.redraw:
        budget = options.budget or BUDGET_SECONDS[options.quick]
        try:
            asyncio.run(run(wanted, options.sink, budget, options.report, console))
        except (KeyboardInterrupt, asyncio.CancelledError):
            stopped = True
    report = reports.load(options.report / "report.json")
    show(report, options.report, console)
    if stopped:
        console.print("Stopped: the report has what was measured until then", style="bold")
        raise SystemExit(130)
    if options.publish:
        for path in publish(report):
            console.print(f"Drawn: {path}", soft_wrap=True)


def show(report: Report, directory: Path, console: Console) -> None:
    """Judges the targets, draws the page, prints the tables."""
    report.targets = judge(report)
    report.save_json(directory)
    (directory / "report.html").write_text(render(report), encoding="utf-8")
    print_tables(report, console)
    console.print(f"Report: {directory / 'report.html'}", soft_wrap=True)


if __name__ == "__main__":
    main()
