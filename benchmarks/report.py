"""All that was measured: as data, as `report.json`, and as tables on the terminal."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.charts import number
from benchmarks.idle import Idle
from benchmarks.measure import Result
from benchmarks.sink_postgresql import Figures

NOTE = (
    "Counts depend little on the machine. Two parts of them do: the server reads its queues once for many tasks where "
    "it is busy, and how many requests travel in one update depends on how many arrive while the gateway gathers. The "
    "requests for the workflows themselves are the steadiest figure. "
    "Everything in seconds (writes/s, latencies, CPU) depends on the machine and on what else runs on it: read ratios."
)


@dataclass(frozen=True)
class Point:
    """One measurement of a curve."""

    curve: str
    line: str
    x: float
    result: Result


@dataclass
class Report:
    """All that was measured, and where.

    Attributes:
        machine: Where and with what.
        results: The ways of writing, under the same load.
        points: Of the curves.
        half_load: One way at half the rate it is capable of.
        sink: `SqlSink` by itself.
        idle: A batcher without writes.
        failures: Title of a part to what went wrong, or why it was left out.
        targets: Figure, target, measured, and whether it is met; None where it was not measured.
        seconds: Title of a part to how long it took.
    """

    machine: dict[str, Any]
    results: list[Result] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    half_load: Result | None = None
    sink: Figures | None = None
    idle: Idle | None = None
    failures: dict[str, str] = field(default_factory=dict)
    targets: list[tuple[str, str, str, bool | None]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def of(self, way: str) -> Result | None:
        return next((r for r in self.results if r.way == way), None)

    def at(self, curve: str, line: str, x: float) -> Result | None:
        return next((p.result for p in self.points if (p.curve, p.line, p.x) == (curve, line, x)), None)

    def save_json(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        data = {"note": NOTE, **asdict(self)}
        (directory / "report.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> Report:
    """The report that `Report.save_json` wrote."""
    data = json.loads(path.read_text(encoding="utf-8"))
    data.pop("note")
    data["results"] = [Result(**r) for r in data["results"]]
    data["points"] = [Point(**{**p, "result": Result(**p["result"])}) for p in data["points"]]
    data["half_load"] = Result(**data["half_load"]) if data["half_load"] else None
    data["idle"] = Idle(**data["idle"]) if data["idle"] else None
    data["targets"] = [(t[0], t[1], t[2], t[3]) for t in data["targets"]]
    if data["sink"]:
        rates = {int(size): rate for size, rate in data["sink"]["rates"].items()}
        data["sink"] = Figures(**{**data["sink"], "rates": rates})
    return Report(**data)


WORKFLOW_OPERATIONS = (
    "CreateWorkflowExecution",
    "UpdateWorkflowExecution",
    "GetWorkflowExecution",
    "GetCurrentExecution",
    "ReadHistoryBranch",
    "CreateTasks",
)
"""Persistence requests for the workflows themselves. The others are the server's reads of its own queues, which come
together under load, and of its own metadata, some of them once a minute for everything at once."""


def workflow_requests(result: Result) -> float:
    return sum(result.persistence_of.get(name, 0.0) for name in WORKFLOW_OPERATIONS)


def milliseconds(quantiles: dict[str, float], name: str) -> float:
    return 1000 * quantiles.get(name, 0.0)


Figure = tuple[str, Callable[[Result], float | None]]

COUNTS: list[Figure] = [
    ("persistence requests", lambda r: r.persistence_per_write),
    ("... for the workflows", workflow_requests),
    ("updates to the batcher", lambda r: r.frontend_of.get("UpdateWorkflowExecution", 0.0)),
    ("frontend requests", lambda r: r.frontend_per_write),
    ("service requests", lambda r: r.service_per_write),
    ("billable actions", lambda r: r.actions_per_write),
    ("caller events", lambda r: r.caller_events),
    ("caller bytes", lambda r: r.caller_bytes),
    ("batcher events", lambda r: r.batcher_events_per_write),
    ("batcher bytes", lambda r: r.batcher_bytes_per_write),
    ("database transactions", lambda r: r.transactions_per_write),
    ("database statements", lambda r: r.statements_per_write),
    ("WAL bytes", lambda r: r.wal_bytes_per_write),
    ("WAL flushes (fsync)", lambda r: r.wal_fsyncs_per_write),
    ("server CPU, ms", lambda r: r.cpu_ms_per_write["temporal"]),
    ("worker CPU, ms", lambda r: r.cpu_ms_per_write["workers"]),
    ("database CPU, ms", lambda r: r.cpu_ms_per_write["database"]),
]
RATES: list[Figure] = [
    ("writes/s", lambda r: r.writes_per_second),
    ("confirmed p50, ms", lambda r: milliseconds(r.latency, "p50")),
    ("confirmed p95, ms", lambda r: milliseconds(r.latency, "p95")),
    ("confirmed p99, ms", lambda r: milliseconds(r.latency, "p99")),
    ("waiting for the batch p50, ms", lambda r: milliseconds(r.stages.get("waiting", {}), "p50")),
    ("flush p50, ms", lambda r: milliseconds(r.stages.get("flush", {}), "p50")),
    ("delivery p50, ms", lambda r: milliseconds(r.stages.get("delivery", {}), "p50")),
    ("workers' memory at the end, MiB", lambda r: r.memory[-1][2] if r.memory else None),
]


def rows(results: Sequence[Result]) -> list[tuple[str, list[str]]]:
    """Figures down, ways across; each figure with its ratio to the direct way."""
    direct = next((r for r in results if r.way == "direct"), None)
    table = []
    for name, figure in [*COUNTS, *RATES]:
        cells = []
        for result in results:
            value = figure(result)
            base = figure(direct) if direct else None
            if not value:
                cells.append("-")
            elif base and result is not direct:
                cells.append(f"{number(value)} ({value / base:.2f}x)")
            else:
                cells.append(number(value))
        table.append((name, cells))
    return table


VERDICTS = {True: "met", False: "not met", None: "not measured"}


def print_tables(report: Report, console: Console) -> None:
    if report.results:
        table = Table(title="Per write (ratio to direct: one activity per row)", title_justify="left")
        table.add_column("per write")
        for result in report.results:
            table.add_column(result.way, justify="right")
        for name, cells in rows(report.results):
            if name == RATES[0][0]:
                table.add_section()
            table.add_row(name, *cells)
        console.print(table)
    if report.points:
        table = Table("curve", "way", "at", "writes/s", "persistence", "p50, ms", "p99, ms", title="Curves")
        table.title_justify = "left"
        for point in report.points:
            r = point.result
            times = [number(milliseconds(r.latency, q)) if r.latency else "-" for q in ("p50", "p99")]
            cells = [number(r.writes_per_second), number(r.persistence_per_write), *times]
            table.add_row(point.curve, point.line, f"{point.x:g}", *cells)
        console.print(table)
    if report.targets:
        table = Table("figure", "target", "measured", "", title="Targets", title_justify="left")
        for name, target, measured, met in report.targets:
            style = "" if met is not False else "bold red"
            table.add_row(name, target, measured, VERDICTS[met], style=style)
        console.print(table)
    for result in [*report.results, *(point.result for point in report.points)]:
        if result.problem:
            console.print(f"[red]{result.way}: {result.problem}")
    for title, problem in report.failures.items():
        console.print(f"[red]{title}: {problem}", highlight=False)
    console.print(NOTE, style="dim")
