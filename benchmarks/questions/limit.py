"""What if the database is the limit: far away, with few connections, or one row that all write to?

PostgreSQL is behind a proxy that delays every byte by half the round trip. 300 workflows write a row each, and again as
soon as they know that it is committed. "direct" does it in a transaction of its own (BEGIN, INSERT, COMMIT: three round
trips) through a pool of 5 or 20 connections, or with a single statement that commits itself (one round trip). "ours"
goes through a batcher whose sink may have 5 connections and whose linger is one second. Then all add to one row.

Each point is the steady state: it is measured once every workflow has been served at this distance, or after 20
seconds; where a way needs longer than that to serve all of them once, its p99 is really higher. Beside it stands what
the database felt.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

import psycopg
import sqlalchemy as sa
from rich.console import Console
from rich.table import Table
from temporalio.client import Client

from benchmarks.charts import Style, curves
from benchmarks.harness import hot_row
from benchmarks.harness.callers import CALLERS_QUEUE, TABLE, Job, Regular
from benchmarks.harness.databases import BenchDatabase, Postgres
from benchmarks.harness.measure import make_row, quantiles
from benchmarks.harness.observer import Observation, ObserverProcess, observer_process
from benchmarks.harness.proxy import FarDatabase, far_database
from benchmarks.harness.servers import fresh_temporal
from benchmarks.harness.worker import WorkerConfig, connect
from benchmarks.harness.worker_process import WorkerProcess, worker_process
from benchmarks.markup import paragraph, plots, table
from benchmarks.question import LeftOut, Part, Progress, Question, Wanted
from benchmarks.report import Limit, LimitPoint, Line, Report
from benchmarks.rounding import milliseconds, number
from benchmarks.targets import at_least

CALLERS = 300
LINGER = 1.0
RECORD_BYTES = 200
STARTED_AT_ONCE = 50
BATCH = 100
ALONE_SECONDS = 3.0
"""How long somebody else is watched while nobody writes."""


@dataclass(frozen=True)
class Contender:
    """One line of the curves.

    Attributes:
        way: As in `WAYS`.
        connections: To the database, at most.
        table: Where it writes.
        autocommit: Whether its statement commits itself.
        round_trips: In milliseconds.
        quick: Those of a quick run.
    """

    way: str
    connections: int = 5
    table: str = TABLE
    autocommit: bool = False
    round_trips: tuple[float, ...] = (1, 20, 50, 100)
    quick: tuple[float, ...] = ()


OURS = "ours, 5 connections"
DIRECT_5 = "direct, 5 connections"
DIRECT_20 = "direct, 20 connections"
AUTOCOMMIT = "direct, 5 connections, autocommit"
HOT_OURS = "one hot row, ours"
HOT_DIRECT = "one hot row, direct"

CONTENDERS = {
    OURS: Contender("local", quick=(50, 100)),
    DIRECT_5: Contender("direct", quick=(50, 100)),
    HOT_OURS: Contender("local", table=hot_row.TABLE, quick=(20,)),
    HOT_DIRECT: Contender("direct", table=hot_row.TABLE, quick=(20,)),
    DIRECT_20: Contender("direct", connections=20),
    AUTOCOMMIT: Contender("direct", autocommit=True, round_trips=(50, 100)),
}
"""In the order of what is asked most."""


@dataclass(frozen=True)
class Pace:
    """How long each point is measured.

    Attributes:
        callers: Workflows that write at the same time.
        first: Seconds after their start: until then more writes are committed than callers know of.
        settle: Seconds until each of them should have been served once; less if they are.
        steady: Seconds more, until what piled up at the last distance is done.
        window: Seconds that are measured after that.
    """

    callers: int
    first: float
    settle: float
    steady: float
    window: float


PACE = {
    False: Pace(CALLERS, first=3.0, settle=20.0, steady=1.5, window=7.0),
    True: Pace(callers=200, first=1.0, settle=5.0, steady=0.5, window=4.0),
}
"""By quick or not."""


class _Line:
    """One contender, measured at one round trip after the other, on a Temporal and a database of its own."""

    def __init__(
        self,
        name: str,
        pace: Pace,
        database: Postgres,
        far: FarDatabase,
        worker: WorkerProcess,
        observer: ObserverProcess,
    ) -> None:
        self._name = name
        self._pace = pace
        self._database = database
        self._far = far
        self._worker = worker
        self._observer = observer

    async def start(self, client: Client) -> None:
        """Starts the callers, some at a time: they go on as long as the servers run."""
        contender = CONTENDERS[self._name]
        some = asyncio.Semaphore(STARTED_AT_ONCE)

        async def one(number: int) -> None:
            row = make_row(number, RECORD_BYTES) if contender.table == TABLE else hot_row.ROW
            job = Job(contender.way, row, table=contender.table)
            async with some:
                await client.start_workflow(Regular.run, job, id=f"regular-{number}", task_queue=CALLERS_QUEUE)

        await asyncio.gather(*(one(number) for number in range(self._pace.callers)))

    async def point(self, round_trip_ms: float) -> LimitPoint:
        await self._far.set_round_trip(round_trip_ms)
        measured_ms = await asyncio.to_thread(_round_trip_ms, self._far.url)
        await self._settled()
        already = len(self._worker.latencies)
        before = self._database.counters()
        await self._observer.begin()
        start = time.monotonic()
        await asyncio.sleep(self._pace.window)
        latencies = self._worker.latencies[already:]
        seconds = time.monotonic() - start
        seen = await self._observer.end()
        after = self._database.counters()
        writes = len(latencies)
        if not writes:
            raise RuntimeError(f"no write was confirmed in {self._pace.window:g} s, {number(round_trip_ms)} ms away")
        transactions = _known(after.writing_transactions) - _known(before.writing_transactions) - seen.probes
        fsyncs = _known(after.wal_fsyncs) - _known(before.wal_fsyncs) - seen.probe_fsyncs
        return LimitPoint(
            line=self._name,
            round_trip_ms=round_trip_ms,
            measured_ms=round(measured_ms, 2),
            writes=writes,
            seconds=round(seconds, 2),
            writes_per_second=round(writes / seconds, 2),
            latency=_rounded(quantiles(latencies)),
            connections=seen.connections,
            transactions_per_write=round(transactions / writes, 4),
            fsyncs_per_write=round(max(0, fsyncs) / writes, 4),
            in_transaction=round(seen.in_transaction, 2),
            lock_waits=round(seen.lock_waits, 2),
            others=others(seen),
        )

    async def _settled(self) -> None:
        """Until each caller has been served once since now: they are served in the order in which they ask."""
        already, served = len(self._worker.latencies), asyncio.Event()

        def confirmed() -> None:
            if len(self._worker.latencies) >= already + self._pace.callers:
                served.set()

        self._worker.on_confirmed = confirmed
        with suppress(TimeoutError):
            await asyncio.wait_for(served.wait(), self._pace.settle)
        self._worker.on_confirmed = lambda: None
        await asyncio.sleep(self._pace.steady)


def others(seen: Observation) -> dict[str, float]:
    return _rounded(quantiles(seen.others))


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 5) for name, value in values.items()}


def _known(count: int | None) -> int:
    assert count is not None  # PostgreSQL counts it
    return count


def _round_trip_ms(url: str) -> float:
    plain = sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    taken = []
    with psycopg.connect(plain, autocommit=True) as connection:
        for _ in range(5):
            start = time.perf_counter()
            connection.execute("SELECT 1")
            taken.append(1000 * (time.perf_counter() - start))
    return statistics.median(taken)


async def measure_line(
    name: str, round_trips: Sequence[float], pace: Pace, database: Postgres, limit: Limit, progress: Progress
) -> None:
    """Adds the points of one contender as they are measured."""
    contender = CONTENDERS[name]
    url = await database.fresh()
    with tempfile.TemporaryDirectory(prefix="bench-limit-") as directory:
        async with (
            fresh_temporal(Path(directory)) as temporal,
            far_database(url) as far,
            observer_process(url) as observer,
        ):
            if not limit.others_alone:
                await observer.begin()
                await asyncio.sleep(ALONE_SECONDS)
                limit.others_alone = others(await observer.end())
            client = await connect(temporal.address)
            config = replace(
                WorkerConfig(contender.way, temporal.address, far.url, BATCH, LINGER),
                connections=contender.connections,
                table=contender.table,
                autocommit=contender.autocommit,
            )
            async with worker_process(config, Path(directory) / "worker.log") as worker:
                line = _Line(name, pace, database, far, worker, observer)
                await line.start(client)
                await asyncio.sleep(pace.first)
                for done, round_trip_ms in enumerate(round_trips, 1):
                    limit.points.append(await line.point(round_trip_ms))
                    progress(done)
                confirmed = len(worker.latencies)
                # What is under way is not waited for: the process is ended, and the servers with it.
                await worker.kill()
            await asyncio.sleep(1)
    _check(database, url, contender, confirmed, pace.callers)


def _check(database: Postgres, url: str, contender: Contender, confirmed: int, callers: int) -> None:
    """Whether the database has what was confirmed, and at most what was under way besides."""
    if contender.table == TABLE:
        written = database.rows(url)
    else:
        written = int(database.hot_total(url) / Decimal(hot_row.ROW["amount"]))
    if not confirmed <= written <= confirmed + callers:
        raise RuntimeError(f"{written} writes in the database, {confirmed} confirmed, {callers} callers")


def _parts(wanted: Wanted) -> list[Part]:
    made = []
    for name, contender in CONTENDERS.items():
        round_trips = contender.quick if wanted.quick else contender.round_trips
        if round_trips and contender.way in wanted.ways:
            made.append(_part(name, round_trips, PACE[wanted.quick]))
    return made


def _part(name: str, round_trips: Sequence[float], pace: Pace) -> Part:
    async def run(report: Report, database: BenchDatabase, progress: Progress) -> None:
        if not isinstance(database, Postgres):
            raise LeftOut("it needs PostgreSQL")
        await measure_line(name, round_trips, pace, database, report.limit, progress)

    return Part(
        f"far: {name}", len(round_trips), 90 + (pace.settle + pace.steady + pace.window) * len(round_trips), run
    )


ROWS, HOT = (OURS, DIRECT_5, DIRECT_20, AUTOCOMMIT), (HOT_OURS, HOT_DIRECT)
COLOURS = {
    OURS: "#2f6fde",
    HOT_OURS: "#2f9e8f",
    DIRECT_5: "#e5534b",
    HOT_DIRECT: "#a463f2",
    DIRECT_20: "#d98c00",
    AUTOCOMMIT: "#e5534b",
}
STYLE = Style(COLOURS, dashed=(AUTOCOMMIT,))
ROUND_TRIP = "round trip to the database, ms"


def lines_of(limit: Limit, names: tuple[str, ...], figure: str) -> dict[str, list[tuple[float, float]]]:
    """Of a figure: the lines that were measured, over the round trip."""
    read: Callable[[LimitPoint], float] = {
        "writes/s": lambda p: p.writes_per_second,
        "p99": lambda p: p.latency.get("p99", 0.0),
        "others": lambda p: milliseconds(p.others, "p95"),
        "fsyncs": lambda p: p.fsyncs_per_write,
        "lock waits": lambda p: p.lock_waits,
        "in transaction": lambda p: p.in_transaction,
    }[figure]
    found = {name: [(p.round_trip_ms, read(p)) for p in limit.points if p.line == name] for name in names}
    return {name: line for name, line in found.items() if line}


def _answer(report: Report) -> list[str]:
    limit = report.limit
    if not limit.points:
        return []
    lines = [
        (title, unit, lines_of(limit, names, figure))
        for title, unit, names, figure in (
            ("Rows: throughput", "writes per second", ROWS, "writes/s"),
            ("Rows: 99 of 100 callers know within", "seconds", ROWS, "p99"),
            ("One hot row: throughput", "writes per second", HOT, "writes/s"),
            ("One hot row: 99 of 100 callers know within", "seconds", HOT, "p99"),
            ("Database: fsyncs", "WAL flushes per write", (*ROWS, *HOT), "fsyncs"),
            ("Database: open transactions", "at a time, on average", (*ROWS, *HOT), "in transaction"),
            ("Database: waiting for a lock", "connections at a time, on average", HOT, "lock waits"),
            ("Somebody else's transaction on it, p95", "ms", (*ROWS, *HOT), "others"),
        )
    ]
    drawn = [
        curves(title, ROUND_TRIP, unit, found, log=False, style=STYLE)
        for title, unit, found in lines
        if any(len(line) > 1 for line in found.values())
    ]
    alone = milliseconds(limit.others_alone, "p50"), milliseconds(limit.others_alone, "p95")
    return [
        *(paragraph(" ".join(text.split())) for text in (__doc__ or "").split("\n\n")[1:]),
        plots(drawn),
        table("Every point", COLUMNS, [(f"{p.line}, {number(p.round_trip_ms)} ms", cells(p)) for p in limit.points]),
        paragraph(
            f"Somebody else commits a small transaction of its own ten times a second, from nearby. While nobody else "
            f"writes it takes {number(alone[0])} ms (p50), {number(alone[1])} ms (p95).",
            note=True,
        ),
    ]


COLUMNS = (
    "writes/s",
    "p50, s",
    "p99, s",
    "connections",
    "transactions per write",
    "fsyncs per write",
    "open transactions",
    "waiting for a lock",
    "somebody else's p50, ms",
    "somebody else's p95, ms",
    "round trip, measured, ms",
)


def cells(point: LimitPoint) -> list[str]:
    """What `COLUMNS` name."""
    return [
        number(point.writes_per_second),
        number(point.latency.get("p50", 0.0)),
        number(point.latency.get("p99", 0.0)),
        str(point.connections),
        number(point.transactions_per_write),
        number(point.fsyncs_per_write),
        number(point.in_transaction),
        number(point.lock_waits),
        number(milliseconds(point.others, "p50")),
        number(milliseconds(point.others, "p95")),
        number(point.measured_ms),
    ]


def _targets(report: Report) -> list[Line]:
    def compared(ours: str, direct: str, round_trip_ms: float) -> float | None:
        one, other = report.limit.at(ours, round_trip_ms), report.limit.at(direct, round_trip_ms)
        return one.writes_per_second / other.writes_per_second if one and other else None

    return [
        at_least("writes/s, database 50 ms away, 5 connections", 2.5, compared(OURS, DIRECT_5, 50), " x direct"),
        at_least("writes/s, database 100 ms away, 5 connections", 4.5, compared(OURS, DIRECT_5, 100), " x direct"),
        at_least("writes/s, one hot row, 20 ms away", 5, compared(HOT_OURS, HOT_DIRECT, 20), " x direct"),
    ]


def _print(report: Report, console: Console) -> None:
    if not report.limit.points:
        return
    shown = Table("way", "round trip, ms", *COLUMNS, title="The database is the limit", title_justify="left")
    for point in report.limit.points:
        shown.add_row(point.line, number(point.round_trip_ms), *cells(point))
    console.print(shown)


QUESTION = Question(
    name="limit",
    asks="What if the database is the limit?",
    parts=_parts,
    answer=_answer,
    targets=_targets,
    print=_print,
    quick=True,
)
