"""Behind PgBouncer in transaction mode: every transaction may run on another connection of the server.

Debian's package is enough (``apt-get install pgbouncer``); without it these tests are skipped.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from temporal_batching import SqlSink
from temporal_batching.cli.database import sync_engine
from temporal_batching.contract import Outcome, OutcomeKind, Record, RejectCode, WriteRequest
from temporal_batching.sinks.base import Batch
from temporal_batching.sinks.dead_letters import DeadLetter
from tests.support.databases import TestDatabase
from tests.support.waiting import assert_eventually

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

pytestmark = [
    pytest.mark.pgbouncer,
    pytest.mark.skipif(PGBOUNCER is None, reason="PgBouncer is not installed: apt-get install pgbouncer"),
]

CONFIGURATION = """[databases]
* = host={server} user=postgres
[pgbouncer]
pool_mode = transaction
default_pool_size = 2
listen_port = 6432
unix_socket_dir = {directory}
logfile = {directory}/log
auth_type = any
"""


@pytest.fixture
def pooled(postgresql: TestDatabase) -> Iterator[sa.URL]:
    """The URL of the database by way of a pooler with two connections to the server."""
    url = sa.make_url(postgresql.url)
    server = url.query["host"]
    directory = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
    file = directory / "pgbouncer.ini"
    file.write_text(CONFIGURATION.format(server=server, directory=directory))
    # It refuses to run as root; whoever runs the server can reach the server's socket.
    user = pwd.getpwuid(Path(str(server)).stat().st_uid).pw_name if os.getuid() == 0 else None
    if user is not None:
        shutil.chown(directory, user)
    assert PGBOUNCER is not None
    process = subprocess.Popen([PGBOUNCER, "-q", str(file)], user=user, stderr=subprocess.DEVNULL)
    try:
        yield url.set(query={"host": str(directory), "port": "6432"})
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(directory, ignore_errors=True)


async def until_it_answers(url: sa.URL) -> None:
    engine = sa.create_engine(url, connect_args={"prepare_threshold": None})

    async def answers() -> None:
        try:
            with engine.connect() as connection:
                assert connection.scalar(sa.text("SELECT 1")) == 1
        except sa.exc.OperationalError as err:
            raise AssertionError("PgBouncer does not answer yet") from err

    await assert_eventually(answers)
    engine.dispose()


@pytest.mark.parametrize("own_engine", [False, True], ids=["url", "engine"])
async def test_every_batch_is_written_whatever_connection_it_gets(
    postgresql: TestDatabase, pooled: sa.URL, own_engine: bool
) -> None:
    postgresql.execute("CREATE TABLE t (id integer PRIMARY KEY, v text);;CREATE TABLE u (id integer)")
    await until_it_answers(pooled)
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
    await until_it_answers(pooled)
    for _ in range(3):
        engine = sync_engine(pooled.render_as_string(hide_password=False))
        with engine.connect() as connection:
            for n in range(20):
                assert connection.scalar(sa.text("SELECT CAST(:n AS integer)"), {"n": n}) == n
                connection.commit()
        engine.dispose()
