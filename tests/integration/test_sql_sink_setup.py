"""Opening a `SqlSink`: what does not fit is said clearly, and what fits needs few privileges."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.pool import StaticPool

from temporal_batching.contract import OutcomeKind, Record, RejectCode, WriteRequest
from temporal_batching.errors import SinkConfigurationError, SinkUnavailable
from temporal_batching.sinks.base import Batch
from temporal_batching.sinks.sql.schema import TableName
from temporal_batching.sinks.sql.sink import SqlSink, TableRule
from temporal_batching.sinks.sql.tables import unique_keys
from tests.support.databases import TestDatabase

ENTRIES = "CREATE TABLE entries (id integer PRIMARY KEY, account text)"


def entry(number: int, table: str = "entries", **values: Any) -> WriteRequest:
    return WriteRequest(f"{table}{number}", [Record(table, {"id": number, **values})])


async def written(sink: SqlSink, *requests: WriteRequest) -> list[str]:
    return [outcome.kind.value for outcome in await sink.write(Batch(requests, id="main-0/1"))]


async def test_the_ledger_is_created_once_though_workers_start_together(database: TestDatabase) -> None:
    database.execute(ENTRIES)
    sinks = [database.sink() for _ in range(6)]
    await asyncio.gather(*(sink.open() for sink in sinks))
    assert len({sink.identity for sink in sinks}) == 1
    for number, sink in enumerate(sinks):
        assert await written(sink, entry(number)) == ["written"]


async def test_a_sink_may_be_opened_twice_and_closed_and_used_again(database: TestDatabase) -> None:
    database.execute(ENTRIES)
    sink = database.sink()
    await sink.open()
    await sink.open()
    assert await written(sink, entry(1)) == ["written"]
    await sink.close()
    await sink.close()
    assert await written(sink, entry(1)) == ["written"]
    await sink.close()


async def test_a_missing_ledger_that_must_not_be_created_says_how_to(database: TestDatabase) -> None:
    database.execute(ENTRIES)
    sink = database.sink(create_ledger=False)
    with pytest.raises(SinkConfigurationError, match="CREATE TABLE"):
        await sink.open()
    database.run_ddl(sink.ledger_ddl())
    await sink.open()
    assert await written(sink, entry(1)) == ["written"]


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ("request_id text PRIMARY KEY", "no column digest"),
        (
            "request_id text, digest text NOT NULL, batch_id text NOT NULL, status text NOT NULL,"
            " committed_at timestamp NOT NULL, returned text",
            "primary key",
        ),
        (
            "request_id text PRIMARY KEY, digest text NOT NULL, batch_id text NOT NULL, status text NOT NULL,"
            " committed_at timestamp NOT NULL, returned text, tenant text NOT NULL",
            "requires tenant",
        ),
    ],
)
async def test_a_table_that_is_no_ledger_is_not_taken_for_one(
    database: TestDatabase, columns: str, complaint: str
) -> None:
    database.execute(f"CREATE TABLE batching_ledger ({columns})")
    with pytest.raises(SinkConfigurationError, match=complaint):
        await database.sink().open()


async def test_a_ledger_that_vanishes_is_an_outage_not_a_rejection(database: TestDatabase) -> None:
    database.execute(ENTRIES)
    sink = database.sink(create_ledger=False)
    database.run_ddl(sink.ledger_ddl())
    await sink.open()
    database.execute("ALTER TABLE batching_ledger RENAME TO moved")
    for _ in range(2):
        with pytest.raises(SinkUnavailable) as caught:
            await written(sink, entry(1))
        assert not caught.value.in_doubt
    database.execute("ALTER TABLE moved RENAME TO batching_ledger")
    assert await written(sink, entry(1)) == ["written"]


async def test_opening_waits_for_a_locked_ledger_only_for_the_lock_timeout(postgresql: TestDatabase) -> None:
    postgresql.execute(ENTRIES)
    first = postgresql.sink(lock_timeout=timedelta(milliseconds=300))
    await first.open()
    with postgresql.engine.connect() as outsider:
        outsider.execute(sa.text("LOCK TABLE batching_ledger IN ACCESS EXCLUSIVE MODE"))
        # Ends a test that fails.
        outsider.execute(sa.text("SET LOCAL idle_in_transaction_session_timeout = '4s'"))
        later = postgresql.sink(lock_timeout=timedelta(milliseconds=300))
        for opened in (later.open, first.open, lambda: written(later, entry(1))):
            async with asyncio.timeout(2):
                with pytest.raises(SinkUnavailable, match=r"ledger batching_ledger.*lock timeout") as caught:
                    await opened()
            assert not caught.value.in_doubt
        outsider.rollback()
    await later.open()
    assert await written(later, entry(1)) == ["written"]
    assert later.identity == first.identity


async def test_opening_waits_for_a_locked_file_only_for_the_lock_timeout(sqlite: TestDatabase) -> None:
    sqlite.execute(ENTRIES)
    await sqlite.sink(wal=False).open()
    later = sqlite.sink(lock_timeout=timedelta(milliseconds=300), wal=False)
    outsider = sa.create_engine(sqlite.url, isolation_level="AUTOCOMMIT")
    with outsider.connect() as connection:
        connection.exec_driver_sql("BEGIN EXCLUSIVE")
        async with asyncio.timeout(2):
            with pytest.raises(SinkUnavailable, match="locked"):
                await later.open()
        connection.exec_driver_sql("ROLLBACK")
    outsider.dispose()
    assert await written(later, entry(1)) == ["written"]


async def test_the_schema_is_read_within_the_timeouts(postgresql: TestDatabase) -> None:
    """Reading a default or an index takes a lock in recent releases; a catalog itself can be locked in all of them."""
    postgresql.execute(ENTRIES)
    sink = postgresql.sink(lock_timeout=timedelta(milliseconds=300))
    await sink.open()
    with postgresql.engine.connect() as outsider:
        outsider.execute(sa.text("LOCK TABLE pg_attribute IN ACCESS EXCLUSIVE MODE"))
        outsider.execute(sa.text("SET LOCAL idle_in_transaction_session_timeout = '4s'"))
        async with asyncio.timeout(2):
            with pytest.raises(SinkUnavailable, match="lock timeout"):
                await written(sink, entry(1))
        outsider.rollback()
    assert await written(sink, entry(1)) == ["written"]


async def test_tables_and_rules_are_held_against_the_database(database: TestDatabase) -> None:
    database.execute(
        "CREATE TABLE t (id integer PRIMARY KEY, a integer, b integer, c integer, UNIQUE (a, b));;"
        + (
            "CREATE INDEX partly ON t (c)"
            if database.dialect == "mariadb"
            else "CREATE UNIQUE INDEX partly ON t (c) WHERE c > 0"
        )
    )
    for tables, complaint in (
        (["nowhere"], "no table nowhere in the database; there is.*t"),
        ({"t": TableRule(conflict="ignore", key=["nope"])}, "no column 'nope'; it has id, a, b, c"),
        ({"t": TableRule(conflict="update", key=["id"], update=["nope"])}, "no column 'nope'"),
        ({"t": TableRule(conflict="update", key=["a"])}, "no unique index over exactly"),
        ({"t": TableRule(conflict="update", key=["c"])}, "no unique index over exactly"),
    ):
        with pytest.raises(SinkConfigurationError, match=complaint):
            await database.sink(tables=tables).open()
    for key in (["id"], ["a", "b"], ["b", "a"]):
        await database.sink(tables={"t": TableRule(conflict="update", key=key)}).open()


async def test_of_postgresqls_indexes_those_are_keys_that_a_conflict_can_name(postgresql: TestDatabase) -> None:
    postgresql.execute(
        'CREATE TABLE t (id integer PRIMARY KEY, a integer, "B" integer, c text, d integer UNIQUE, e integer);;'
        'CREATE UNIQUE INDEX included ON t ("B", a) INCLUDE (e);;'
        "CREATE UNIQUE INDEX expressed ON t (lower(c), a);;"
        "CREATE UNIQUE INDEX partly ON t (e) WHERE e > 0;;"
        "CREATE UNIQUE INDEX failed ON t (c);;"
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'failed'::regclass;;"
        "CREATE INDEX plain ON t (a);;"
        "CREATE SCHEMA other;;CREATE TABLE other.t (e integer UNIQUE)"
    )
    with postgresql.engine.connect() as connection:
        keys = [("id",), ("B", "a"), ("d",)]
        assert unique_keys(connection, TableName("public", "t")) == keys
        assert unique_keys(connection, TableName(None, "t")) == keys
        assert unique_keys(connection, TableName("other", "t")) == [("e",)]
    for key in keys:
        rules = {"t": TableRule(conflict="update", key=list(key))}
        sink = postgresql.sink(tables=rules)
        rows = [WriteRequest("-".join(key) + n, [Record("t", {"id": 1, "a": 1, "B": 1, "d": 1})]) for n in "12"]
        assert await written(sink, *rows) == ["written"] * 2


async def test_only_the_named_tables_may_be_written(database: TestDatabase) -> None:
    database.execute(f"{ENTRIES};;CREATE TABLE secrets (id integer)")
    sink = database.sink(tables=["entries"])
    outcomes = await sink.write(Batch([entry(1), entry(1, "secrets")], id="main-0/1"))
    assert [o.kind.value for o in outcomes] == ["written", "rejected"]
    assert outcomes[1].code is RejectCode.UNKNOWN_TABLE
    assert str(outcomes[1].reason).endswith("there is entries")


async def test_a_migrated_schema_is_picked_up(database: TestDatabase) -> None:
    database.execute(ENTRIES)
    sink = database.sink()
    assert await written(sink, entry(1, note="x"), entry(1, "notes")) == ["rejected", "rejected"]
    database.execute("ALTER TABLE entries ADD COLUMN note text;;CREATE TABLE notes (id integer)")
    assert await written(sink, entry(1, note="x"), entry(1, "notes")) == ["written", "written"]


async def test_a_column_or_table_that_was_dropped_rejects_who_still_sends_it(database: TestDatabase) -> None:
    database.execute(f"{ENTRIES};;CREATE TABLE gone (id integer)")
    sink = database.sink()
    assert await written(sink, entry(1, account="a"), entry(1, "gone")) == ["written"] * 2
    database.execute("ALTER TABLE entries DROP COLUMN account;;DROP TABLE gone")
    outcomes = await sink.write(Batch([entry(2), entry(3, account="a"), entry(4, "gone")], id="main-0/2"))
    assert [o.code for o in outcomes] == [None, RejectCode.UNKNOWN_COLUMN, RejectCode.UNKNOWN_TABLE]


async def test_a_column_that_became_another_type_is_bound_anew(postgresql: TestDatabase) -> None:
    postgresql.execute(ENTRIES)
    sink = postgresql.sink()
    assert await written(sink, entry(1, account="7")) == ["written"]
    postgresql.execute("ALTER TABLE entries ALTER account TYPE integer USING account::integer")
    assert await written(sink, entry(2, account="8")) == ["written"]
    assert postgresql.rows("SELECT account FROM entries ORDER BY id") == [(7,), (8,)]


async def test_an_engine_of_ones_own_is_used_and_left_as_it_was(database: TestDatabase) -> None:
    database.execute(ENTRIES)
    sink = database.sink(url=database.engine)
    assert await written(sink, entry(1), entry(1, account="x")) == ["written", "rejected"]
    await sink.close()
    with database.engine.connect() as connection:
        connection.execute(sa.text("INSERT INTO entries VALUES (2, 'x')"))
        connection.rollback()
    assert database.rows("SELECT id FROM entries") == [(1,)]
    if database.dialect == "postgresql":
        assert database.scalar("SHOW statement_timeout") == "0"


async def test_a_database_in_memory_works() -> None:
    sink = SqlSink("sqlite://")
    with sink.connections.engine.begin() as connection:
        connection.exec_driver_sql(ENTRIES)
    assert await written(sink, entry(1), entry(1, account="x"), entry(2)) == ["written", "rejected", "written"]
    await sink.close()
    engine = sa.create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    with engine.begin() as connection:
        connection.exec_driver_sql(ENTRIES)
    sink = SqlSink(engine)
    assert await written(sink, entry(1)) == ["written"]
    await sink.close()
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM entries").scalar() == 1
    engine.dispose()


@pytest.mark.parametrize(
    "url", ["", "nonsense", "mysql+mysqldb://ann:s3cr3t@h/d", "oracle://ann:s3cr3t@h/d",
            "postgresql+asyncpg://ann:s3cr3t@h/d", "sqlite+aiosqlite:///x",
            "postgresql://ann:s3cr3t@h:port/d", "://s3cr3t", None, 5]
)  # fmt: skip
def test_a_url_that_is_not_understood_says_what_is(url: Any) -> None:
    with pytest.raises(SinkConfigurationError, match="supported") as caught:
        SqlSink(url)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_way_to_say_postgresql_means_psycopg_3(scheme: str) -> None:
    sink = SqlSink(f"{scheme}://ann@127.0.0.1/d")
    assert (sink.connections.engine.dialect.name, sink.connections.engine.dialect.driver) == ("postgresql", "psycopg")
    sink.connections.engine.dispose()


@pytest.mark.parametrize("scheme", ["mariadb", "mysql", "mariadb+pymysql", "mysql+pymysql"])
def test_every_way_to_say_mariadb_means_pymysql(scheme: str) -> None:
    sink = SqlSink(f"{scheme}://ann@127.0.0.1/d")
    assert (sink.connections.engine.dialect.name, sink.connections.engine.dialect.driver) == ("mariadb", "pymysql")
    sink.connections.engine.dispose()


def test_options_out_of_range_are_refused() -> None:
    for options in (
        {"max_connections": 0},
        {"tables": "entries"},
        {"statement_timeout": timedelta(0)},
        {"lock_timeout": timedelta(seconds=-1)},
    ):
        with pytest.raises(SinkConfigurationError, match=next(iter(options))):
            SqlSink("sqlite://", **options)
    for rule in ({"conflict": "merge"}, {"conflict": "update"}, {"key": ["id"]}, {"conflict": "ignore", "key": "id"}):
        with pytest.raises(SinkConfigurationError):
            TableRule(**rule)
    with pytest.raises(SinkConfigurationError, match="StaticPool"):
        SqlSink(sa.create_engine("sqlite://"))


@pytest.mark.parametrize(
    ("missing", "url", "extra"),
    [
        ("psycopg", "postgresql://h/d", "temporal-batching[postgresql]"),
        ("pymysql", "mariadb://h/d", "temporal-batching[mariadb]"),
        ("sqlalchemy", "", "temporal-batching[sql]"),
    ],
)
def test_what_is_not_installed_is_named_with_its_extra(missing: str, url: str, extra: str) -> None:
    program = f"""
import sys
sys.modules[{missing!r}] = None
import temporal_batching.sinks as sinks
sinks.MemorySink(), sinks.ConsoleSink()
try:
    sinks.SqlSink({url!r})
except Exception as err:
    print(err)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert extra in said.stdout


def test_no_driver_is_imported_before_it_is_used() -> None:
    program = """
import sys, temporal_batching.sinks
assert not {"sqlalchemy", "psycopg", "pymysql"} & set(sys.modules)
temporal_batching.sinks.SqlSink("sqlite://")
assert not {"psycopg", "pymysql"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


async def test_tables_of_other_schemas_are_written_by_their_full_name(postgresql: TestDatabase) -> None:
    postgresql.execute(
        f"CREATE SCHEMA sales;;CREATE TABLE sales.entries (id integer PRIMARY KEY, account text);;{ENTRIES};;"
        "CREATE SCHEMA audit"
    )
    sink = postgresql.sink(ledger_table="audit.ledger")
    requests = [entry(1), entry(2, "sales.entries"), entry(3, "public.entries"), entry(4, "audit.ledger")]
    assert await written(sink, *requests) == ["written", "written", "written", "rejected"]
    assert postgresql.rows("SELECT id FROM sales.entries") == [(2,)]
    assert postgresql.rows("SELECT id FROM public.entries ORDER BY id") == [(1,), (3,)]
    assert postgresql.scalar("SELECT count(*) FROM audit.ledger WHERE status = 'written'") == 3
    ruled = postgresql.sink(
        ledger_table="audit.ledger", tables={"sales.entries": TableRule(conflict="update", key=["id"])}
    )
    await ruled.open()
    assert await written(ruled, entry(5, "sales.entries"), entry(5)) == ["written", "rejected"]


async def test_few_privileges_are_enough(postgresql: TestDatabase) -> None:
    postgresql.execute(ENTRIES)
    postgresql.execute(
        "CREATE TABLE readable (id integer PRIMARY KEY);;CREATE TABLE balances (id integer PRIMARY KEY, n integer)"
    )
    owner = postgresql.sink()
    postgresql.run_ddl(owner.ledger_ddl())
    role = f"writer_{postgresql.engine.url.database}"
    postgresql.execute(
        f"CREATE ROLE {role} LOGIN;;REVOKE CREATE ON SCHEMA public FROM PUBLIC;;"
        f"GRANT SELECT, INSERT ON batching_ledger TO {role};;GRANT INSERT ON entries TO {role};;"
        f"GRANT INSERT, SELECT, UPDATE ON balances TO {role};;GRANT SELECT ON readable TO {role}"
    )
    try:
        url = postgresql.engine.url.set(username=role)
        sink = postgresql.sink(url=url)
        with pytest.raises(SinkConfigurationError, match="lacks UPDATE on the ledger"):
            await sink.open()
        postgresql.execute(f"GRANT UPDATE ON batching_ledger TO {role}")
        sink = postgresql.sink(url=url, tables={"entries": TableRule(), "readable": TableRule(),
                                                "balances": TableRule(conflict="update", key=["id"])})  # fmt: skip
        await sink.open()
        first = Batch([entry(1), entry(1, "readable"), entry(1, "balances", n=1)], id="main-0/1")
        outcomes = await sink.write(first)
        assert [o.kind for o in outcomes] == [OutcomeKind.WRITTEN, OutcomeKind.REJECTED, OutcomeKind.WRITTEN]
        assert outcomes[1].code is RejectCode.DATABASE
        assert "permission denied" in str(outcomes[1].reason)
        assert [o.kind.value for o in await sink.fence(Batch([entry(9), entry(1)], id="main-0/1"))] == [
            "expired",
            "written",
        ]
        assert await sink.write(Batch([entry(9)], id="main-0/2"))
    finally:
        postgresql.execute(f"DROP OWNED BY {role};;DROP ROLE {role}")
