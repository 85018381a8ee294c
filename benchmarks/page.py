"""`report.html`: one page without network, drawn from the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape

from benchmarks.charts import bars, curves, number, stacked
from benchmarks.histories import __doc__ as billing_rules
from benchmarks.measure import WAYS, Result
from benchmarks.report import NOTE, VERDICTS, Report, milliseconds, rows, workflow_requests
from benchmarks.worker_process import STAGES

STYLE = """
:root { color-scheme: light dark; --ink: #1b1e23; --soft: #5d6470; --line: #d9dde3; --back: #fff; --good: #1d7a3a;
  --bad: #b3261e }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaee; --soft: #a3aab5; --line: #3a404a; --back: #16181d;
  --good: #6fcf8b; --bad: #ff8a80 } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1180px; margin: 2rem auto; padding: 0 1rem; color: var(--ink);
  background: var(--back) }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(500px, 1fr)); gap: 2rem 1.5rem }
figure { margin: 0 } figcaption { font-weight: 600; margin-bottom: .3rem }
svg { width: 100%; height: auto; font-size: 14px } svg text { fill: var(--ink) }
svg .small { font-size: 13px; fill: var(--soft) } svg .value { font-weight: 600 }
svg .grid { stroke: var(--line) } svg .target { stroke: var(--ink); stroke-dasharray: 4 3 }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap }
th:first-child, td:first-child { text-align: left } .note { color: var(--soft) }
.met { color: var(--good); font-weight: 600 } .missed { color: var(--bad); font-weight: 600 }
"""


def render(report: Report) -> str:
    results = report.results
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>",
        f"<title>What batching costs and saves</title><style>{STYLE}</style><h1>What batching costs and saves</h1>",
        f"<p class='note'>{escape(', '.join(f'{k}: {v}' for k, v in report.machine.items()))}</p>",
        f"<p class='note'>{escape(NOTE)}</p>",
    ]
    if report.targets:
        parts.append(_targets(report))
    if report.failures:
        found = "".join(f"<li><b>{escape(title)}</b> {escape(p)}</li>" for title, p in report.failures.items())
        parts.append(f"<h2>Failed or left out</h2><ul>{found}</ul>")
    if results:
        load = results[0].load
        parts.append("<h2>The ways of writing, same load</h2>")
        parts.append(
            f"<p>{load['writes']:,} writes by {load['callers']} callers side by side, one record of "
            f"{load['record_bytes']} bytes each, batches of {load['batch_size']}; write_many makes ten times as many."
        )
        parts.append("<ul>" + "".join(f"<li><b>{r.way}</b>: {escape(WAYS[r.way])}</li>" for r in results) + "</ul>")
        parts.append(f"<div class='plots'>{''.join(_plots(results))}</div>")
        parts.append(_table("Per write (ratio to direct)", [r.way for r in results], rows(results)))
        parts.append(_operations(results, "Persistence requests per write, by operation", "persistence_of"))
        parts.append(_operations(results, "Frontend requests per write, by operation", "frontend_of"))
        parts.append(_operations(results, "Billable actions per write, by kind", "actions_of"))
        parts.append(f"<p class='note'>{escape(billing_rules or '')}</p>")
    drawn = [*_curves(report), *_memory(report), *_half_load(report), *_sink(report)]
    if drawn:
        parts.append(f"<h2>Curves</h2><div class='plots'>{''.join(drawn)}</div>")
    if report.idle:
        parts.append(
            f"<h2>An idle batcher</h2><p>In {report.idle.seconds:.0f} s without a write: {report.idle.events} history "
            f"events of the batcher, {number(report.idle.worker_cpu)} s of CPU of its worker. The server made "
            f"{report.idle.persistence:,} persistence requests for chores of its own.</p>"
        )
    return "\n".join(parts) + "\n"


def _targets(report: Report) -> str:
    style = {True: "met", False: "missed", None: "note"}
    lines = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(target)}</td><td>{escape(measured)}</td>"
        f"<td class='{style[met]}'>{VERDICTS[met]}</td></tr>"
        for name, target, measured, met in report.targets
    )
    heads = "<tr><th>figure</th><th>target</th><th>measured</th><th></th></tr>"
    return f"<h2>Targets</h2><div class='scroll'><table>{heads}{lines}</table></div>"


def _plots(results: Sequence[Result]) -> list[str]:
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


CURVES: dict[str, list[tuple[str, str, Callable[[Result], float]]]] = {
    "callers in flight": [
        ("Throughput over callers in flight, no linger", "writes per second", lambda r: r.writes_per_second),
        (
            "Confirmation p50 over callers in flight, no linger",
            "ms",
            lambda r: milliseconds(r.latency, "p50"),
        ),
        (
            "Persistence requests over callers in flight, no linger",
            "requests per write",
            lambda r: r.persistence_per_write,
        ),
    ],
    "records in a batch": [
        ("write_many: throughput over batch size", "records per second", lambda r: r.writes_per_second),
        ("write_many: persistence over batch size", "requests per record", lambda r: r.persistence_per_write),
        ("write_many: transactions over batch size", "transactions per record", lambda r: r.transactions_per_write),
    ],
    "bytes in a record": [
        ("write_many: throughput over record size", "records per second", lambda r: r.writes_per_second),
        (
            "write_many: volume over record size",
            "MiB per second",
            lambda r: r.writes_per_second * r.load["record_bytes"] / 2**20,
        ),
    ],
    "shards": [("write_many: throughput over shards", "records per second", lambda r: r.writes_per_second)],
    "writes": [
        ("write_many: persistence over writes", "requests per record", lambda r: r.persistence_per_write),
        ("write_many: throughput over writes", "records per second", lambda r: r.writes_per_second),
    ],
}


def _curves(report: Report) -> list[str]:
    drawn = []
    for curve, plots in CURVES.items():
        for title, unit, figure in plots:
            lines: dict[str, list[tuple[float, float]]] = {}
            for point in report.points:
                if point.curve == curve:
                    lines.setdefault(point.line, []).append((point.x, figure(point.result)))
            if any(len(line) > 1 for line in lines.values()):
                drawn.append(curves(title, curve, unit, lines))
    return drawn


def _memory(report: Report) -> list[str]:
    longest = max((p for p in report.points if p.curve == "writes"), key=lambda p: p.x, default=None)
    if longest is None or len(longest.result.memory) < 2:
        return []
    memory = longest.result.memory
    lines = {
        "batcher's worker": [(s[0], s[2]) for s in memory],
        "Temporal": [(s[0], s[3]) for s in memory],
    }
    return [
        curves(f"Memory over {longest.x:,.0f} writes by write_many", "seconds", "MiB", lines, log=False, marks=False)
    ]


def _half_load(report: Report) -> list[str]:
    result = report.half_load
    if result is None or not result.latency:
        return []
    title = (
        f"At half load: {number(result.load['rate'])} writes/s, linger {number(result.load['linger'])} s, {result.way}"
    )
    linger = 1000 * float(result.load["linger"])
    quantiles = {name: milliseconds(result.latency, name) for name in ("p50", "p95", "p99")}
    return [bars(title, "ms until confirmed", quantiles, target=("linger", linger))]


def _sink(report: Report) -> list[str]:
    if report.sink is None:
        return []
    return [
        bars(f"SqlSink and PostgreSQL's own means, batches of {size}", "rows per second", dict(rates))
        for size, rates in report.sink.rates.items()
    ]


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
