"""The report on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from benchmarks.plan import QUESTIONS
from benchmarks.report import NOTE, Report
from benchmarks.rounding import milliseconds, number
from benchmarks.targets import VERDICTS


def print_tables(report: Report, console: Console) -> None:
    for question in QUESTIONS:
        question.print(report, console)
    if report.points:
        _print_points(report, console)
    if report.targets:
        table = Table("figure", "target", "measured", "", title="Targets", title_justify="left")
        for name, target, measured, met in report.targets:
            table.add_row(name, target, measured, VERDICTS[met], style="" if met is not False else "bold red")
        console.print(table)
    for title, problem in report.failures.items():
        console.print(f"[red]{title}: {problem}", highlight=False)
    console.print(NOTE, style="dim")


def _print_points(report: Report, console: Console) -> None:
    table = Table("curve", "way", "at", "writes/s", "persistence", "p50, ms", "p99, ms", title="Curves")
    table.title_justify = "left"
    for point in report.points:
        result = point.result
        times = [number(milliseconds(result.latency, q)) if result.latency else "-" for q in ("p50", "p99")]
        cells = [number(result.writes_per_second), number(result.persistence_per_write), *times]
        table.add_row(point.curve, point.line, f"{point.x:g}", *cells)
    console.print(table)
    for point in report.points:
        if point.result.problem:
            console.print(f"[red]{point.line}: {point.result.problem}")
