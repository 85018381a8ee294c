"""What does one write cost, by each way of writing, under the same load?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from rich.console import Console
from rich.table import Table

from benchmarks.charts import bars, stacked
from benchmarks.harness.databases import BenchDatabase
from benchmarks.harness.measure import WAYS, Load, measure
from benchmarks.harness.worker_process import STAGES
from benchmarks.markup import meanings, paragraph, plots, table
from benchmarks.question import Part, Progress, Question, Wanted
from benchmarks.report import Line, Report, Result
from benchmarks.rounding import milliseconds, number
from benchmarks.targets import at_least, at_most, ratio
from temporal_batching.sizing.actions import __doc__ as billing_rules

URGENCY = ("direct", "local", "write_many", "activity", "signal", "classic", "in-process")
"""What is measured first, for a slow machine on which not all of it fits the time."""
NOT_QUICK = ("write_many", "in-process")
"""A quick run has no time for them; it asks for many writes at a time elsewhere."""
MANY = 10
"""A program writes so many times more, or it would be over before it is measured."""
FULL_BATCH = 100
GATEWAYS = {"local": "gateway in the caller's worker", "activity": "gateway in the batcher's worker"}

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


def _parts(wanted: Wanted) -> list[Part]:
    if wanted.quick:
        load = Load(writes=200, callers=200, warm_up=100, idle_seconds=1.0, settle_seconds=1.0, exact_fsyncs=False)
    else:
        load = Load(writes=800, callers=300, warm_up=200, idle_seconds=5.0)
    # Full batches: what is left of one would wait for the linger.
    writes = -(-(wanted.writes or load.writes) // load.batch_size) * load.batch_size
    load = replace(load, writes=writes, callers=max(wanted.callers or load.callers, load.batch_size))
    ways = [way for way in URGENCY if way in wanted.ways and not (wanted.quick and way in NOT_QUICK)]
    return [_way(way, replace(load, writes=load.writes * (MANY if way == "write_many" else 1))) for way in ways]


def _way(way: str, load: Load) -> Part:
    async def run(report: Report, database: BenchDatabase, progress: Progress) -> None:
        report.results += await measure(way, [load], database, progress)
        report.results.sort(key=lambda result: list(WAYS).index(result.way))

    return Part(way, load.writes, 60 + load.writes / (100 if way == "write_many" else 4), run)


def workflow_requests(result: Result) -> float:
    return sum(result.persistence_of.get(name, 0.0) for name in WORKFLOW_OPERATIONS)


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
    found = []
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
        found.append((name, cells))
    return found


def _print(report: Report, console: Console) -> None:
    if not report.results:
        return
    found = Table(title="Per write (ratio to direct: one activity per row)", title_justify="left")
    found.add_column("per write")
    for result in report.results:
        found.add_column(result.way, justify="right")
    for name, cells in rows(report.results):
        if name == RATES[0][0]:
            found.add_section()
        found.add_row(name, *cells)
    console.print(found)
    for result in report.results:
        if result.problem:
            console.print(f"[red]{result.way}: {result.problem}")


def _answer(report: Report) -> list[str]:
    results = report.results
    if not results:
        return []
    load = results[0].load
    return [
        paragraph(
            f"{load['writes']:,} writes by {load['callers']} callers at a time, one record of {load['record_bytes']} "
            f"bytes each, batches of {load['batch_size']}; write_many makes ten times as many."
        ),
        meanings({r.way: WAYS[r.way] for r in results}),
        plots(_plots(results)),
        table("Per write (ratio to direct)", [r.way for r in results], rows(results)),
        _operations(results, "Persistence requests per write, by operation", "persistence_of"),
        _operations(results, "Frontend requests per write, by operation", "frontend_of"),
        _operations(results, "Billable actions per write, by kind", "actions_of"),
        paragraph(billing_rules or "", note=True),
    ]


def _plots(results: list[Result]) -> list[str]:
    def by_way(figure: Callable[[Result], float]) -> dict[str, float]:
        return {r.way: figure(r) for r in results}

    callers = [r for r in results if r.latency]
    drawn = [
        bars("Temporal: persistence requests", "requests per write", by_way(lambda r: r.persistence_per_write)),
        bars("Temporal: persistence requests for the workflows alone", "requests per write", by_way(workflow_requests)),
        bars("Temporal: service requests", "requests per write", by_way(lambda r: r.service_per_write)),
        bars("Temporal: billable actions", "actions per write", by_way(lambda r: r.actions_per_write)),
        stacked(
            "Temporal: history events",
            "events per write",
            {r.way: {"caller": r.caller_events, "batcher": r.batcher_events_per_write} for r in results},
        ),
        stacked(
            "Temporal: history size",
            "bytes per write",
            {r.way: {"caller": r.caller_bytes, "batcher": r.batcher_bytes_per_write} for r in results},
        ),
        bars("Database: transactions", "transactions per write", by_way(lambda r: r.transactions_per_write)),
        bars("Database: statements", "statements per write", by_way(lambda r: r.statements_per_write)),
    ]
    if all(r.wal_fsyncs_per_write is not None for r in results):
        drawn.append(bars("Database: WAL flushes", "fsyncs per write", by_way(lambda r: r.wal_fsyncs_per_write or 0.0)))
        drawn.append(bars("Database: WAL", "bytes per write", by_way(lambda r: r.wal_bytes_per_write or 0.0)))
    drawn += [
        stacked("CPU time", "ms per write", {r.way: r.cpu_ms_per_write for r in results}),
        bars("Throughput", "confirmed writes per second", by_way(lambda r: r.writes_per_second)),
    ]
    if callers:
        drawn.append(_quantiles("Confirmation latency, all callers busy", {r.way: r for r in callers}))
        drawn.append(_stages("Where the p50 goes: medians of its parts", {r.way: r for r in callers}))
    return drawn


def _quantiles(title: str, results: Mapping[str, Result]) -> str:
    flat = {
        f"{name} {quantile}": milliseconds(result.latency, quantile)
        for name, result in results.items()
        for quantile in ("p50", "p95", "p99")
    }
    return bars(title, "ms", flat, group=3)


def _stages(title: str, results: Mapping[str, Result]) -> str:
    parts = {
        name: {stage: milliseconds(result.stages.get(stage, {}), "p50") for stage in STAGES}
        for name, result in results.items()
    }
    return stacked(title, "ms", parts)


def _operations(results: Sequence[Result], title: str, attribute: str) -> str:
    found: list[Mapping[str, float]] = [getattr(r, attribute) for r in results]
    names = sorted({name for of in found for name in of}, key=lambda name: -max(of.get(name, 0.0) for of in found))
    cells = [(name, [number(of[name]) if name in of else "-" for of in found]) for name in names]
    return table(title, [r.way for r in results], [row for row in cells if any(cell != "-" for cell in row[1])])


def _targets(report: Report) -> list[Line]:
    direct = report.of("direct")

    def requests(way: str, most: float, name: str) -> Line:
        found = ratio(report.of(way), direct, "persistence_per_write")
        return at_most(f"persistence requests, {name}", most, found, " x direct")

    return [
        requests("local", 1.03, GATEWAYS["local"]),
        requests("activity", 1.10, GATEWAYS["activity"]),
        requests("signal", 1.65, "by signal"),
        _transactions(report),
        *_throughput(report),
        *_events(report),
    ]


def _events(report: Report) -> list[Line]:
    found = {where: report.of(way) for way, where in GATEWAYS.items()}
    return [
        at_most(f"batcher events per write, {where}", 0.15, result.batcher_events_per_write if result else None)
        for where, result in found.items()
    ]


def _transactions(report: Report) -> Line:
    found = [r.transactions_per_write for way in ("local", "activity", "signal") if (r := report.of(way))]
    full = all(r.load["batch_size"] == FULL_BATCH for r in report.results)
    name = f"database transactions per write, batches of {FULL_BATCH}, the worst way in"
    return at_most(name, 0.011, max(found) if found and full else None)


def _throughput(report: Report) -> list[Line]:
    ways = [r for way in GATEWAYS if (r := report.of(way))]
    best = max(ways, key=lambda r: r.writes_per_second, default=None)
    name = "confirmed writes/s, by activity" + ("" if best is None else f" ({GATEWAYS[best.way]})")
    return [
        at_least(name, least, ratio(best, report.of(other), "writes_per_second"), f" x {other}")
        for other, least in (("direct", 1.1), ("classic", 2.2))
    ]


QUESTION = Question(
    name="ways",
    asks="What does one write cost, by each way of writing?",
    parts=_parts,
    answer=_answer,
    targets=_targets,
    print=_print,
    quick=True,
)
