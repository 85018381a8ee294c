"""What a run consists of: parts, each with a title and a limit of time, in the order of what is asked most."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from benchmarks import sink_postgresql
from benchmarks.databases import BenchDatabase, Postgres
from benchmarks.idle import watch_idle
from benchmarks.measure import WAYS, Load, Result, measure
from benchmarks.report import Point, Report

PARTS = ("sink", "ways", "idle", "writes", "latency", "callers", "batch", "record", "shards")
QUICK_PARTS = ("sink", "ways", "writes", "latency", "callers")
URGENCY = ("direct", "local", "write_many", "activity", "signal", "classic", "in-process")
"""What is measured first, for a slow machine on which not all of it fits the time."""
IDLE_SECONDS = 600.0
HALF_LOAD_LINGER = 2.0
USUAL_RATE = 40.0
"""Writes per second to take the half of where no way has been measured before."""
MANY = 10
"""A program writes so many times more, or it would be over before it is measured."""
GROUPED = 0.2
"""Linger of `write_many`, whose parcels are batches already: only its last one waits."""
SINK_DATABASE = 9_999

Progress = Callable[[int], None]


class LeftOut(Exception):
    """A part that cannot be measured here; the message says why."""


@dataclass(frozen=True)
class Part:
    """One thing to measure.

    Attributes:
        title: For people; unique.
        steps: How many writes (or seconds) its progress counts.
        timeout: Seconds after which it has failed.
        run: Adds what it finds to the report.
        concurrent: Runs while the others do, because it only waits.
    """

    title: str
    steps: int
    timeout: float
    run: Callable[[Report, BenchDatabase, Progress], Awaitable[None]]
    concurrent: bool = False


@dataclass(frozen=True)
class Wanted:
    """What was asked for on the command line."""

    parts: Sequence[str]
    ways: Sequence[str]
    quick: bool = False
    writes: int | None = None
    callers: int | None = None
    idle_seconds: float = IDLE_SECONDS


def make_plan(wanted: Wanted) -> list[Part]:
    made: list[Part] = []
    for name in wanted.parts:
        made += _MAKERS[name](wanted)
    return made


def _sink(wanted: Wanted) -> list[Part]:
    rounds = 6 if wanted.quick else 20

    async def run(report: Report, database: BenchDatabase, progress: Progress) -> None:
        if not isinstance(database, Postgres):
            raise LeftOut("it compares ways into PostgreSQL")
        url = database.empty(SINK_DATABASE)
        # Its ways block: in a thread of its own the others go on.
        report.sink = await asyncio.to_thread(lambda: asyncio.run(sink_postgresql.measure(url, rounds)))

    return [Part("SqlSink on PostgreSQL", 1, 120, run)]


def _ways(wanted: Wanted) -> list[Part]:
    if wanted.quick:
        load = Load(writes=200, callers=200, warm_up=100, idle_seconds=1.0, settle_seconds=1.0, exact_fsyncs=False)
    else:
        load = Load(writes=800, callers=300, warm_up=200, idle_seconds=5.0)
    # Full batches: what is left of one would wait for the linger.
    writes = -(-(wanted.writes or load.writes) // load.batch_size) * load.batch_size
    load = replace(load, writes=writes, callers=max(wanted.callers or load.callers, load.batch_size))
    ways = [way for way in URGENCY if way in wanted.ways]
    return [_way(way, replace(load, writes=load.writes * (MANY if way == "write_many" else 1))) for way in ways]


def _way(way: str, load: Load) -> Part:
    async def run(report: Report, database: BenchDatabase, progress: Progress) -> None:
        report.results += await measure(way, [load], database, progress)
        report.results.sort(key=lambda result: list(WAYS).index(result.way))

    return Part(way, load.writes, 60 + load.writes / (100 if way == "write_many" else 4), run)


def _curve(curve: str, line: str, way: str, at: Sequence[tuple[float, Load]], *, timeout: float) -> Part:
    """Points of one line. Loads whose batcher has the same limits share servers and workers."""

    async def run(report: Report, database: BenchDatabase, progress: Progress) -> None:
        alike = len({(load.batch_size, load.linger, load.shards) for _, load in at}) == 1
        if alike:
            results = await measure(way, [load for _, load in at], database, progress)
            found: list[tuple[float, Result]] = [(x, r) for (x, _), r in zip(at, results, strict=True)]
            report.points += [Point(curve, line, x, result) for x, result in found]
            return
        for x, load in at:
            for result in await measure(way, [load], database, progress):
                report.points.append(Point(curve, line, x, result))

    return Part(f"{curve}: {line}", max(load.writes for _, load in at), timeout, run)


def _callers(wanted: Wanted) -> list[Part]:
    few = Load(warm_up=30, idle_seconds=2.0, linger=0.0)
    each = {1: 30, 10: 100, 100: 300, 1000: 1000}
    ways: tuple[str, ...] = ("direct", "activity", "local")
    if wanted.quick:
        few, each, ways = replace(few, warm_up=20, idle_seconds=1.0), {1: 20}, ("direct", "local")
    at = [(callers, replace(few, writes=writes, callers=callers)) for callers, writes in each.items()]
    return [_curve("callers in flight", way, way, at, timeout=240) for way in ways if way in wanted.ways]


def _writes(wanted: Wanted) -> list[Part]:
    if "write_many" not in wanted.ways:
        return []
    sizes = (1_000, 10_000) if wanted.quick else (1_000, 10_000, 100_000)
    load = Load(batch_size=1_000, linger=GROUPED, warm_up=2_000, idle_seconds=1.0 if wanted.quick else 3.0)
    at = [(writes, replace(load, writes=writes)) for writes in sizes]
    return [_curve("writes", "write_many", "write_many", at, timeout=90 if wanted.quick else 240)]


def _batch(wanted: Wanted) -> list[Part]:
    few = Load(warm_up=100, idle_seconds=2.0, linger=GROUPED)
    at = [
        (size, replace(few, batch_size=size, writes=writes))
        for size, writes in {1: 200, 10: 2_000, 100: 10_000, 1000: 20_000}.items()
    ]
    return [_curve("records in a batch", "write_many", "write_many", at, timeout=240)]


def _record(wanted: Wanted) -> list[Part]:
    few = Load(warm_up=100, idle_seconds=2.0, linger=GROUPED)
    at = [
        (size, replace(few, record_bytes=size, writes=writes))
        for size, writes in {100: 10_000, 1_000: 5_000, 10_000: 1_000, 100_000: 200}.items()
    ]
    return [_curve("bytes in a record", "write_many", "write_many", at, timeout=180)]


def _shards(wanted: Wanted) -> list[Part]:
    few = Load(warm_up=1_000, idle_seconds=2.0, linger=GROUPED, writes=15_000, batch_size=500)
    at = [(shards, replace(few, shards=shards)) for shards in (1, 2, 4, 8)]
    return [_curve("shards", "write_many", "write_many", at, timeout=180)]


def _latency(wanted: Wanted) -> list[Part]:
    way = "local"
    if way not in wanted.ways:
        return []
    writes = 100 if wanted.quick else 300

    async def run(report: Report, database: BenchDatabase, progress: Progress) -> None:
        known = report.of(way)
        rate = round((known.writes_per_second if known else USUAL_RATE) / 2, 1)
        idle = 1.0 if wanted.quick else 2.0
        load = Load(writes=writes, callers=10_000, rate=rate, linger=HALF_LOAD_LINGER, warm_up=60, idle_seconds=idle)
        (report.half_load,) = await measure(way, [load], database, progress)

    return [Part("latency at half load", writes, 120, run)]


def _idle(wanted: Wanted) -> list[Part]:
    async def run(report: Report, database: BenchDatabase, progress: Progress) -> None:
        report.idle = await watch_idle(database, wanted.idle_seconds)

    return [Part("idle batcher", 1, wanted.idle_seconds + 90, run, concurrent=True)]


_MAKERS: dict[str, Callable[[Wanted], list[Part]]] = {
    "sink": _sink,
    "ways": _ways,
    "idle": _idle,
    "writes": _writes,
    "latency": _latency,
    "callers": _callers,
    "batch": _batch,
    "record": _record,
    "shards": _shards,
}
