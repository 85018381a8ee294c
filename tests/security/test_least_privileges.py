"""The roles that docs/how-to/connect-a-database.md grants are enough, and what they do not grant is refused."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from temporalio.client import Client

from temporal_batching import SinkConfigurationError, SqlSink, TableRule
from temporal_batching.audit.database import open_for_reading
from temporal_batching.audit.tables import AuditedTables
from temporal_batching.contract import Record, WriteRequest
from temporal_batching.sinks.base import Batch
from temporal_batching.sinks.dead_letters import DeadLetter
from temporal_batching.sinks.sql.ledger import ledger_table
from temporal_batching.sinks.sql.pruning import prune_ledger
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
    """The URL of the documented role, in a database in which no role can create or change a table any more."""
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


async def test_returned_columns_need_select_on_them_and_no_more(postgresql: TestDatabase, batcher_url: sa.URL) -> None:
    sink = postgresql.sink(url=batcher_url, tables={"entries": TableRule()})
    asks = WriteRequest("asks", [Record("entries", {"n": 1}, ["id"])])
    silent = WriteRequest("silent", [Record("entries", {"n": 2})])
    refused, written = await sink.write(Batch([asks, silent], id="main-0/1"))
    assert (refused.kind.value, written.kind.value) == ("rejected", "written")
    assert "permission denied" in str(refused.reason)
    with postgresql.engine.begin() as connection:
        connection.exec_driver_sql("ALTER EVENT TRIGGER no_ddl DISABLE")
        connection.exec_driver_sql(f"GRANT SELECT (id) ON entries TO {batcher_url.username}")
        connection.exec_driver_sql("ALTER EVENT TRIGGER no_ddl ENABLE")
    (written,) = await sink.write(Batch([asks], id="main-0/2"))
    assert written.returned == [{"id": postgresql.scalar("SELECT id FROM entries WHERE n = 1")}]


RULES = {
    "entries": TableRule(),
    "balances": TableRule(conflict="update", key=["account"]),
    "others": TableRule(key=["n"], operations={"insert", "delete"}),
}
"""For the last one the documented role has no right at all, or that to read it."""


async def test_a_check_names_what_the_role_lacks_on_each_table(postgresql: TestDatabase, batcher_url: sa.URL) -> None:
    postgresql.execute("ALTER EVENT TRIGGER no_ddl DISABLE;;CREATE UNIQUE INDEX ON others (n)")
    sink = postgresql.sink(url=batcher_url, tables=RULES, create_ledger=False)
    await sink.open()
    assert await sink.check_tables() == ["this role lacks SELECT, INSERT, DELETE on others"]
    role = batcher_url.username
    postgresql.execute(f"GRANT SELECT, INSERT (n), DELETE ON others TO {role};;REVOKE UPDATE ON balances FROM {role}")
    assert await sink.check_tables() == ["this role lacks UPDATE on balances"]


@pytest.fixture
def mariadb_urls(mariadb: TestDatabase) -> Iterator[dict[str, sa.URL]]:
    """The URLs of the documented roles on MariaDB, by their names."""
    mariadb.execute(
        "CREATE TABLE entries (id bigint AUTO_INCREMENT PRIMARY KEY, n integer);;"
        "CREATE TABLE balances (account varchar(20) PRIMARY KEY, n integer);;CREATE TABLE others (n integer)"
    )
    own = str(mariadb.engine.url.database)
    text = DOCUMENT.read_text(encoding="utf-8")
    sql = "\n".join(re.findall(r'^```sql title="MariaDB"\n(.*?)^```$', text, re.MULTILINE | re.DOTALL))
    sql = re.sub(r"\b(batcher|auditor|pruner)\b", rf"\1_{own}", sql.replace("ON app.", f"ON {own}."))
    mariadb.run_ddl(sql)
    names = ("batcher", "auditor", "pruner")
    yield {name: mariadb.engine.url.set(username=f"{name}_{own}") for name in names}
    for name in names:
        mariadb.execute(f"DROP USER {name}_{own}@localhost")


async def test_on_mariadb_the_batchers_role_writes_and_isolates_and_can_do_no_more(
    mariadb: TestDatabase, mariadb_urls: dict[str, sa.URL]
) -> None:
    rules = {
        "entries": TableRule(),
        "balances": TableRule(conflict="update", key=["account"]),
        "others": TableRule(),
    }
    mariadb.execute(f"GRANT SELECT ON others TO {mariadb_urls['batcher'].username}@localhost")
    sink = mariadb.sink(url=mariadb_urls["batcher"], tables=rules, create_ledger=False)
    requests = [
        WriteRequest(f"r{n}", [Record("entries", {"n": n})], expires_at=1.0 if n == 1 else None) for n in range(3)
    ]
    requests.append(WriteRequest("other", [Record("others", {"n": 1})]))
    requests += [WriteRequest(f"b{n}", [Record("balances", {"account": "a", "n": n})]) for n in range(2)]
    outcomes = await sink.write(Batch(requests, id="main-0/1"))
    assert [o.kind.value for o in outcomes] == ["written", "expired", "written", "rejected", "written", "written"]
    assert "denied" in str(outcomes[3].reason)
    outcomes = await sink.fence(Batch(requests[:3], id="main-0/1"))
    assert [outcome.kind.value for outcome in outcomes] == ["written", "expired", "written"]
    assert set(await sink.lookup(["r0", "nobody"])) == {"r0"}
    for _ in range(2):
        assert await sink.keep_dead_letters([DeadLetter(requests[3], outcomes[2], "main-0/1")])
    assert mariadb.rows("SELECT request_id FROM batching_dead_letters") == [("other",)]
    assert mariadb.rows("SELECT n FROM balances") == [(1,)]
    refused = {
        "batcher": [*(s for s in BEYOND if "others" not in s), "INSERT INTO others VALUES (1)"],
        "auditor": ["INSERT INTO entries (n) VALUES (1)", "DELETE FROM batching_ledger"],
        "pruner": ["SELECT * FROM entries", "UPDATE batching_ledger SET status = 'x'"],
    }
    for name, statements in refused.items():
        await asyncio.to_thread(_are_refused, mariadb_urls[name], statements)


async def test_on_mariadb_a_role_that_lacks_a_right_on_the_ledger_is_told_so(
    mariadb: TestDatabase, mariadb_urls: dict[str, sa.URL]
) -> None:
    mariadb.execute(f"REVOKE UPDATE ON batching_ledger FROM {mariadb_urls['batcher'].username}@localhost")
    with pytest.raises(SinkConfigurationError, match="lacks UPDATE on the ledger"):
        await mariadb.sink(url=mariadb_urls["batcher"]).open()


async def test_on_mariadb_a_check_names_what_the_role_lacks_on_each_table(
    mariadb: TestDatabase, mariadb_urls: dict[str, sa.URL]
) -> None:
    mariadb.run_ddl("ALTER TABLE others ADD UNIQUE (n)")
    role = f"{mariadb_urls['batcher'].username}@localhost"
    mariadb.execute(f"GRANT SELECT ON others TO {role}")
    sink = mariadb.sink(url=mariadb_urls["batcher"], tables=RULES, create_ledger=False)
    await sink.open()
    assert await sink.check_tables() == ["this role lacks INSERT, DELETE on others"]
    mariadb.execute(f"GRANT INSERT (n), DELETE ON others TO {role};;REVOKE UPDATE ON balances FROM {role}")
    assert await sink.check_tables() == ["this role lacks UPDATE on balances"]


async def test_on_mariadb_auditor_and_pruner_can_do_their_work(
    mariadb: TestDatabase, mariadb_urls: dict[str, sa.URL]
) -> None:
    sink = mariadb.sink()
    await sink.write(Batch([WriteRequest("r", [Record("entries", {"n": 1})])], id="main-0/1"))
    with open_for_reading(mariadb_urls["auditor"].render_as_string(hide_password=False), "batching_ledger") as opened:
        table = AuditedTables(opened.connection, opened.adapter, {}).get("entries")
        columns, values = table.bind(Record("entries", {"n": 1}))
        ((found,),) = opened.finder.find(table, columns, (), [values])
        assert found.differs == ()
    engine = sa.create_engine(mariadb_urls["pruner"])
    ledger = ledger_table("batching_ledger", schemas=True)
    assert prune_ledger(engine, ledger, datetime(9000, 1, 1, tzinfo=UTC)).old == 1
    engine.dispose()
    assert (await sink.lookup(["r"])) == {}


def _are_refused(url: sa.URL, statements: list[str]) -> None:
    engine = sa.create_engine(url)
    for statement in statements:
        with engine.connect() as connection, pytest.raises(sa.exc.DBAPIError):
            connection.execute(sa.text(statement))
    engine.dispose()


BEYOND = [
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
]


def test_it_cannot_do_more(postgresql: TestDatabase, batcher_url: sa.URL) -> None:
    _are_refused(batcher_url, BEYOND)
