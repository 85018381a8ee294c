"""Behind PgBouncer in transaction mode: every transaction may run on another connection of the server.

Debian's package is enough (``apt-get install pgbouncer``); without it these tests are skipped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from temporal_batching import SqlSink
from temporal_batching.cli.database import sync_engine
from temporal_batching.contract import Outcome, OutcomeKind, Record, RejectCode, WriteRequest
from temporal_batching.sinks.base import Batch
from temporal_batching.sinks.dead_letters import DeadLetter
from tests.support.databases import TestDatabase
from tests.support.pooled_postgresql import PGBOUNCER, pooler

pytestmark = [
    pytest.mark.pgbouncer,
    pytest.mark.skipif(PGBOUNCER is None, reason="PgBouncer is not installed: apt-get install pgbouncer"),
]


@pytest.fixture
def pooled(postgresql: TestDatabase, postgresql_server: sa.URL) -> Iterator[sa.URL]:
    """The URL of the database by way of a pooler with two connections to the server."""
    with pooler(str(postgresql_server.query["host"]), connections=2) as query:
        yield sa.make_url(postgresql.url).set(query=query)


@pytest.mark.parametrize("own_engine", [False, True], ids=["url", "engine"])
async def test_every_batch_is_written_whatever_connection_it_gets(
    postgresql: TestDatabase, pooled: sa.URL, own_engine: bool
) -> None:
    postgresql.execute("CREATE TABLE t (id integer PRIMARY KEY, v text);;CREATE TABLE u (id integer)")
    engine = sa.create_engine(pooled) if own_engine else None
    sink = SqlSink(engine or pooled)
    await sink.open()

    async def one(n: int) -> list[Outcome]:
        requests = [WriteRequest(f"{n}/{i}", [Record("t", {"id": 10 * n + i, "v": "x"})]) for i in range(8)]
        requests += [
            WriteRequest(f"{n}/u", [Record("u", {"id": n})]),
            WriteRequest(f"{n}/twice", [Record("t", {"id": 10 * n, "v": "x"})]),
            WriteRequest(f"{n}/absent", [Record("absent", {"id": 1})]),
        ]
        batch = Batch(requests if n % 2 else requests[:8], id=f"main-0/{n}")
        outcomes = list(await sink.write(batch))
        assert await sink.write(batch) == outcomes
        letter = DeadLetter(requests[-1], Outcome.rejected(RejectCode.CONSTRAINT, "twice"), batch.id)
        assert await sink.keep_dead_letters([letter])
        return outcomes

    found = [outcomes for part in range(5) for outcomes in await asyncio.gather(*(one(8 * part + n) for n in range(8)))]
    settled = await sink.fence(Batch([WriteRequest("late", [Record("t", {"id": -1})])], id="main-0/99"))
    await sink.close()
    if engine is not None:
        engine.dispose()
    assert [len({o.kind for o in outcomes[:8]} - {OutcomeKind.WRITTEN}) for outcomes in found] == [0] * 40
    codes = [[o.code for o in outcomes[8:]] for outcomes in found if outcomes[8:]]
    assert codes == [[None, RejectCode.CONSTRAINT, RejectCode.UNKNOWN_TABLE]] * 20
    assert [o.kind for o in settled] == [OutcomeKind.EXPIRED]
    assert postgresql.rows("SELECT count(*), count(DISTINCT id) FROM t") == [(320, 320)]
    assert postgresql.scalar("SELECT count(*) FROM batching_dead_letters") == 40


async def test_commands_ask_their_questions_too(postgresql: TestDatabase, pooled: sa.URL) -> None:
    """The audit asks the same of many ids, a chunk at a time."""
    for _ in range(3):
        engine = sync_engine(pooled.render_as_string(hide_password=False))
        with engine.connect() as connection:
            for n in range(20):
                assert connection.scalar(sa.text("SELECT CAST(:n AS integer)"), {"n": n}) == n
                connection.commit()
        engine.dispose()
