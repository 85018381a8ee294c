"""The targets, and whether this run meets them."""

from __future__ import annotations

import statistics

from benchmarks.charts import number
from benchmarks.measure import Result
from benchmarks.report import Report, milliseconds

Line = tuple[str, str, str, bool | None]

IDLE_SECONDS = 600.0
MANY_WRITES = 100_000
ALLOWED_DELAY_MS = 250.0
FLAT = 0.10
FULL_BATCH = 100


def judge(report: Report) -> list[Line]:
    """Figure, target, measured, met; None where what it takes was not measured."""
    lines = [
        *(_times_direct(report, way, most, name) for way, most, name in PERSISTENCE),
        _transactions(report),
        *_throughput(report),
        _one_shard(report),
        *_sink(report),
        _half_load(report),
        _idle_batcher_latency(report),
        *(_events(report, way, name) for way, name in EVENTS),
        _idle(report),
        _memory(report),
        _flat_cost(report),
    ]
    return [line for line in lines if line is not None]


PERSISTENCE = (
    ("local", 1.05, "persistence requests, gateway in the caller's worker"),
    ("activity", 1.10, "persistence requests, gateway in the batcher's worker"),
    ("signal", 1.45, "persistence requests, by signal"),
)
EVENTS = (
    ("local", "batcher events per write, gateway in the caller's worker"),
    ("activity", "batcher events per write, gateway in the batcher's worker"),
)


def _line(name: str, target: str, value: float | None, met: bool, unit: str = "") -> Line:
    if value is None:
        return name, target, "-", None
    return name, target, f"{number(value)}{unit}", met


def _at_most(name: str, most: float, value: float | None, unit: str) -> Line:
    return _line(name, f"≤ {number(most)}{unit}", value, value is not None and value <= most, unit)


def _at_least(name: str, least: float, value: float | None, unit: str) -> Line:
    return _line(name, f"≥ {number(least)}{unit}", value, value is not None and value >= least, unit)


def _ratio(one: Result | None, other: Result | None, figure: str) -> float | None:
    if one is None or other is None or not getattr(other, figure):
        return None
    return float(getattr(one, figure) / getattr(other, figure))


def _times_direct(report: Report, way: str, most: float, name: str) -> Line:
    return _at_most(name, most, _ratio(report.of(way), report.of("direct"), "persistence_per_write"), " x direct")


def _transactions(report: Report) -> Line:
    found = [r.transactions_per_write for way in ("local", "activity", "signal") if (r := report.of(way))]
    return _at_most(
        f"database transactions per write, batches of {FULL_BATCH}, the worst way in",
        0.011,
        max(found) if found and _full_batches(report) else None,
        "",
    )


def _full_batches(report: Report) -> bool:
    return all(r.load["batch_size"] == FULL_BATCH for r in report.results)


def _throughput(report: Report) -> list[Line]:
    ways = [r for way in ("local", "activity") if (r := report.of(way))]
    best = max(ways, key=lambda r: r.writes_per_second, default=None)
    name = "confirmed writes/s, by activity"
    gateway = {"local": " (gateway in the caller's worker)", "activity": " (gateway in the batcher's worker)"}
    where = "" if best is None else gateway[best.way]
    return [
        _at_least(name + where, least, _ratio(best, report.of(other), "writes_per_second"), f" x {other}")
        for other, least in (("direct", 1.1), ("classic", 2.2))
    ]


def _one_shard(report: Report) -> Line:
    longest = [p for p in report.points if p.curve == "writes" and p.line == "write_many"]
    if not longest:
        return "one shard, write_many, 200-byte records", "≥ 10,000 records/s", "-", None
    # The longest run: it has continued as new many times.
    best = max(longest, key=lambda p: p.x)
    name = f"one shard, write_many, {best.x:,.0f} records of 200 bytes"
    return _at_least(name, 10_000, best.result.writes_per_second, " records/s")


def _sink(report: Report) -> list[Line]:
    rates = (report.sink.rates if report.sink else {}).get(1000)
    ours = rates["sql_sink"] if rates else None
    return [
        _at_least(
            "SqlSink, batches of 1000",
            least,
            None if ours is None or rates is None else ours / rates[other],
            f" x {label}",
        )
        for least, other, label in ((0.5, "raw_copy", "raw COPY"), (20, "single_commits", "single commits"))
    ]


def _half_load(report: Report) -> Line:
    result = report.half_load
    if result is None:
        return "confirmation p99 at half load", "≤ linger + 250 ms", "-", None
    linger = 1000 * float(result.load["linger"])
    name = f"confirmation p99 at half load, linger {number(linger)} ms, {number(result.load['rate'])} writes/s"
    return _at_most(name, linger + ALLOWED_DELAY_MS, milliseconds(result.latency, "p99"), " ms")


def _idle_batcher_latency(report: Report) -> Line:
    direct = report.at("callers in flight", "direct", 1)
    found = [r for way in ("local", "activity") if (r := report.at("callers in flight", way, 1))]
    ratio = None
    if direct and direct.latency and found:
        ratio = max(r.latency["p50"] for r in found) / direct.latency["p50"]
    return _at_most("confirmation p50, no linger, idle batcher, the worse gateway", 2, ratio, " x direct")


def _events(report: Report, way: str, name: str) -> Line:
    result = report.of(way)
    return _at_most(name, 0.15, None if result is None else result.batcher_events_per_write, "")


def _idle(report: Report) -> Line:
    if report.idle is None:
        return "idle batcher", "0 events in ten minutes", "-", None
    name = f"events of an idle batcher in {report.idle.seconds:.0f} s"
    met = report.idle.events == 0 if report.idle.seconds >= IDLE_SECONDS else None if report.idle.events == 0 else False
    return name, "0 in 600 s", str(report.idle.events), met


def memory_growth(result: Result) -> float | None:
    """How much larger the worker was towards the end than after its first fifth, as a share."""

    def median(low: float, high: float) -> float:
        return statistics.median([s[2] for s in result.memory if low <= s[1] / result.writes <= high] or [0.0])

    early, late = median(0.2, 0.5), median(0.8, 1.0)
    return late / early - 1 if early and late else None


def _memory(report: Report) -> Line:
    found = [p.result for p in report.points if p.curve == "writes" and p.x >= MANY_WRITES]
    growth = memory_growth(found[0]) if found else None
    name = f"batcher worker's memory over {MANY_WRITES:,} writes"
    if growth is None:
        return name, "flat within 10 %", "-", None
    return name, "flat within 10 %", f"{100 * growth:+.1f} %", abs(growth) <= FLAT or growth < 0


def _flat_cost(report: Report) -> Line | None:
    """Not a target with a number of its own: cost per write must stay flat as writes grow."""
    points = sorted((p for p in report.points if (p.curve, p.line) == ("writes", "write_many")), key=lambda p: p.x)
    if len(points) < 2:
        return None
    first, last = points[0].result, points[-1].result
    ratio = _ratio(last, first, "persistence_per_write")
    name = f"persistence per write, {points[-1].x:,.0f} writes compared with {points[0].x:,.0f}"
    return _at_most(name, 1.1, ratio, " x")
