"""The table on the terminal, `report.json`, and `report.html` that is drawn from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.charts import bars, curves, number, stacked
from benchmarks.measure import WAYS, Result

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
    """All that was measured, and where."""

    machine: dict[str, Any]
    results: list[Result] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        data = {"note": NOTE, **asdict(self)}
        (directory / "report.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        (directory / "report.html").write_text(render(self), encoding="utf-8")


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


COLUMNS: list[tuple[str, Callable[[Result], float]]] = [
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
    ("database transactions", lambda r: r.commits_per_write),
    ("WAL bytes", lambda r: r.wal_bytes_per_write),
    ("WAL fsyncs", lambda r: r.wal_fsyncs_per_write),
    ("server CPU, ms", lambda r: r.cpu_ms_per_write["temporal"]),
    ("worker CPU, ms", lambda r: r.cpu_ms_per_write["workers"]),
    ("database CPU, ms", lambda r: r.cpu_ms_per_write["postgres"]),
]
RATES: list[tuple[str, Callable[[Result], float]]] = [
    ("writes/s", lambda r: r.writes_per_second),
    ("confirmed p50, ms", lambda r: 1000 * r.latency.get("p50", 0.0)),
    ("p95, ms", lambda r: 1000 * r.latency.get("p95", 0.0)),
    ("p99, ms", lambda r: 1000 * r.latency.get("p99", 0.0)),
    ("delivery p50, ms", lambda r: 1000 * r.delivery.get("p50", 0.0)),
]


def rows(results: Sequence[Result]) -> list[tuple[str, list[str]]]:
    """Figures down, ways across; beside each figure its ratio to the direct way."""
    direct = next((r for r in results if r.way == "direct"), None)
    table = []
    for name, figure in [*COLUMNS, *RATES]:
        cells = []
        for result in results:
            value = figure(result)
            base = figure(direct) if direct else 0.0
            if not value:
                cells.append("-")
            elif base and result is not direct:
                cells.append(f"{number(value)} ({value / base:.2f}x)")
            else:
                cells.append(number(value))
        table.append((name, cells))
    return table


def print_table(report: Report, console: Console) -> None:
    table = Table(title="Per write, beside one activity per row (ratio to direct)", title_justify="left")
    table.add_column("per write")
    for result in report.results:
        table.add_column(result.way, justify="right")
    for name, cells in rows(report.results):
        if name == RATES[0][0]:
            table.add_section()
        table.add_row(name, *cells)
    console.print(table)
    for result in report.results:
        if result.problem:
            console.print(f"[red]{result.way}: {result.problem}")
    for way, problem in report.failures.items():
        console.print(f"[red]{way} failed: {problem}")
    console.print(NOTE, style="dim")


STYLE = """
:root { color-scheme: light dark; --ink: #1b1e23; --soft: #5d6470; --line: #d9dde3; --back: #fff }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaee; --soft: #a3aab5; --line: #3a404a; --back: #16181d } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2rem auto; padding: 0 1rem; color: var(--ink);
  background: var(--back) }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(480px, 1fr)); gap: 1.5rem }
figure { margin: 0 } figcaption { font-weight: 600; margin-bottom: .3rem }
svg { width: 100%; height: auto; font-size: 13px } svg text { fill: var(--ink) }
svg .small { font-size: 11px; fill: var(--soft) } svg .value { font-weight: 600 }
svg .grid { stroke: var(--line) } svg .target { stroke: var(--ink); stroke-dasharray: 4 3 }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap }
th:first-child, td:first-child { text-align: left } .note { color: var(--soft) }
"""


def render(report: Report) -> str:
    results = report.results
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>",
        f"<title>What batching costs and saves</title><style>{STYLE}</style><h1>What batching costs and saves</h1>",
        f"<p class='note'>{escape(', '.join(f'{k}: {v}' for k, v in report.machine.items()))}</p>",
        f"<p class='note'>{escape(NOTE)}</p>",
    ]
    if results:
        parts.append("<ul>" + "".join(f"<li><b>{r.way}</b>: {escape(WAYS[r.way])}</li>" for r in results) + "</ul>")
        parts.append(f"<div class='plots'>{''.join(_plots(results))}</div>")
        parts.append(_table("Per write (ratio to direct)", [r.way for r in results], rows(results)))
        parts.append(_operations(results, "Persistence requests per write, by operation", "persistence_of"))
        parts.append(_operations(results, "Frontend requests per write, by operation", "frontend_of"))
        parts.append(_operations(results, "Billable actions per write, by kind", "actions_of"))
    if report.points:
        parts.append(f"<h2>Curves</h2><div class='plots'>{''.join(_curves(report.points))}</div>")
    for way, problem in report.failures.items():
        parts.append(f"<p><b>{escape(way)} failed</b>: {escape(problem)}</p>")
    return "\n".join(parts) + "\n"


def _plots(results: Sequence[Result]) -> list[str]:
    def by_way(figure: Callable[[Result], float]) -> dict[str, float]:
        return {r.way: figure(r) for r in results}

    callers = [r for r in results if r.way != "write_many"]
    return [
        bars("Temporal: persistence requests", "requests per write", by_way(lambda r: r.persistence_per_write)),
        bars("Temporal: persistence requests for the workflows alone", "requests per write", by_way(workflow_requests)),
        bars("Temporal: billable actions", "actions per write", by_way(lambda r: r.actions_per_write)),
        bars("Database: transactions", "transactions per write", by_way(lambda r: r.commits_per_write)),
        bars("Database: write-ahead log", "bytes per write", by_way(lambda r: r.wal_bytes_per_write)),
        stacked(
            "Temporal: history events",
            "events per write",
            {r.way: {"caller": r.caller_events, "batcher": r.batcher_events_per_write} for r in results},
        ),
        stacked("CPU time", "ms per write", {r.way: r.cpu_ms_per_write for r in results}),
        bars("Throughput", "confirmed writes per second", by_way(lambda r: r.writes_per_second)),
        bars("Confirmation latency, p50, all callers busy", "ms", {r.way: 1000 * r.latency["p50"] for r in callers}),
        bars("Confirmation latency, p99, all callers busy", "ms", {r.way: 1000 * r.latency["p99"] for r in callers}),
    ]


CURVES: dict[str, list[tuple[str, str, Callable[[Result], float]]]] = {
    "callers in flight": [
        ("Throughput over callers in flight, no linger", "writes per second", lambda r: r.writes_per_second),
        ("Confirmation p50 over callers in flight, no linger", "ms", lambda r: 1000 * r.latency["p50"]),
        ("Persistence requests over callers in flight", "requests per write", lambda r: r.persistence_per_write),
    ],
    "records in a batch": [
        ("write_many: throughput over batch size", "writes per second", lambda r: r.writes_per_second),
        ("write_many: persistence over batch size", "requests per write", lambda r: r.persistence_per_write),
    ],
    "bytes in a record": [
        ("write_many: throughput over record size", "writes per second", lambda r: r.writes_per_second),
    ],
    "shards": [("write_many: throughput over shards", "writes per second", lambda r: r.writes_per_second)],
}


def _curves(points: Sequence[Point]) -> list[str]:
    drawn = []
    for curve, plots in CURVES.items():
        for title, unit, figure in plots:
            lines: dict[str, list[tuple[float, float]]] = {}
            for point in points:
                if point.curve == curve:
                    lines.setdefault(point.line, []).append((point.x, figure(point.result)))
            if lines:
                drawn.append(curves(title, curve, unit, lines))
    return drawn


def _operations(results: Sequence[Result], title: str, attribute: str) -> str:
    found: list[Mapping[str, float]] = [getattr(r, attribute) for r in results]
    names = sorted({name for of in found for name in of}, key=lambda name: -max(of.get(name, 0.0) for of in found))
    table = [(name, [number(of[name]) if name in of else "-" for of in found]) for name in names]
    return _table(title, [r.way for r in results], [row for row in table if any(cell != "-" for cell in row[1])])


def _table(title: str, head: Sequence[str], body: Sequence[tuple[str, Sequence[str]]]) -> str:
    heads = "".join(f"<th>{escape(name)}</th>" for name in ["", *head])
    lines = "".join(
        f"<tr><td>{escape(name)}</td>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for name, cells in body
    )
    return f"<h2>{escape(title)}</h2><div class='scroll'><table><tr>{heads}</tr>{lines}</table></div>"
