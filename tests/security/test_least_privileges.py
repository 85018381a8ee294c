"""The roles that docs/how-to/connect-a-database.md grants are enough, and what they do not grant is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from temporalio.client import Client

from temporal_batching import SqlSink, TableRule
from temporal_batching.contract import Record, WriteRequest
from temporal_batching.sinks.base import Batch
from temporal_batching.sinks.dead_letters import DeadLetter
from tests.support.callers import WAYS_IN, Write
from tests.support.databases import TestDatabase
from tests.support.service import running

DOCUMENT = Path(__file__).parents[2] / "docs" / "how-to" / "connect-a-database.md"

NO_DDL = """
CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no DDL here'; END $$;;
CREATE EVENT TRIGGER no_ddl ON ddl_command_start EXECUTE FUNCTION refuse()
"""


@pytest.fixture
def batcher_url(postgresql: TestDatabase) -> Iterator[sa.URL]:
    """The URL of the documented role, in a database in which nobody can create or change a table any more."""
    postgresql.execute(
        "CREATE TABLE entries (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n integer);;"
        "CREATE TABLE balances (account text PRIMARY KEY, n integer);;CREATE TABLE others (n integer)"
    )
    sql = "\n".join(re.findall(r"^```sql\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))
    # Roles belong to the whole server, which other tests use too.
    own = str(postgresql.engine.url.database)
    sql = re.sub(r"\b(batcher|auditor|pruner)\b", rf"\1_{own}", sql)
    postgresql.execute(sql.replace(";\n", ";;").strip().removesuffix(";;"))
    postgresql.execute(NO_DDL)
    yield postgresql.engine.url.set(username=f"batcher_{own}")
    postgresql.execute("DROP EVENT TRIGGER no_ddl")
    for role in (f"batcher_{own}", f"auditor_{own}", f"pruner_{own}"):
        postgresql.execute(f"DROP OWNED BY {role};;DROP ROLE {role}")


async def test_the_batchers_role_writes_by_every_way_in(
    client: Client, postgresql: TestDatabase, batcher_url: sa.URL
) -> None:
    rules = {"entries": TableRule(), "balances": TableRule(conflict="update", key=["account"])}
    sink = SqlSink(batcher_url, tables=rules, create_ledger=False)
    async with running(client, sink) as service:
        for number, way_in in enumerate(WAYS_IN):
            rows = [["entries", {"n": number}], ["balances", {"account": "a", "n": number}]]
            bad = Write([["entries", {"n": "x"}]])
            results = await service.call(way_in, [Write(rows, request_id=way_in), bad])
            again = await service.call(way_in, [Write(rows, request_id=way_in)])
            assert [one.outcome for one in (*results, *again)] == ["written", "rejected", "duplicate"]
    assert postgresql.rows("SELECT n FROM entries ORDER BY n") == [(0,), (1,), (2,)]
    assert postgresql.rows("SELECT n FROM balances") == [(2,)]


async def test_it_may_settle_and_isolate_without_any_other_right(postgresql: TestDatabase, batcher_url: sa.URL) -> None:
    sink = postgresql.sink(url=batcher_url)  # may create a ledger, and has no need to
    await sink.open()
    requests = [
        WriteRequest(f"r{n}", [Record("entries", {"n": n})], expires_at=1.0 if n == 1 else None) for n in range(3)
    ]
    requests.append(WriteRequest("other", [Record("others", {"n": 1})]))
    outcomes = await sink.write(Batch(requests, id="main-0/1"))
    assert [outcome.kind.value for outcome in outcomes] == ["written", "expired", "written", "rejected"]
    assert "permission denied" in str(outcomes[3].reason)
    outcomes = await sink.fence(Batch(requests[:3], id="main-0/1"))
    assert [outcome.kind.value for outcome in outcomes] == ["written", "expired", "written"]
    assert set(await sink.lookup(["r0", "nobody"])) == {"r0"}
    for _ in range(2):
        assert await sink.keep_dead_letters([DeadLetter(requests[3], outcomes[2], "main-0/1")])
    assert postgresql.rows("SELECT request_id FROM batching_dead_letters") == [("other",)]


def test_it_cannot_do_more(postgresql: TestDatabase, batcher_url: sa.URL) -> None:
    engine = sa.create_engine(batcher_url)
    for statement in (
        "SELECT * FROM entries",
        "UPDATE entries SET n = 1",
        "DELETE FROM entries",
        "DELETE FROM batching_ledger",
        "SELECT * FROM batching_dead_letters",
        "DELETE FROM batching_dead_letters",
        "TRUNCATE batching_ledger",
        "SELECT * FROM others",
        "INSERT INTO others VALUES (1)",
        "CREATE TABLE mine (n integer)",
        "ALTER TABLE batching_ledger ADD COLUMN n integer",
    ):
        with engine.connect() as connection, pytest.raises(sa.exc.DBAPIError):
            connection.execute(sa.text(statement))
    engine.dispose()
