"""The batcher's role needs the rights of the operations that its rules allow, and no more."""

from __future__ import annotations

import sqlalchemy as sa

from temporal_batching import Record, SqlSink, TableRule, WriteRequest
from temporal_batching.sinks.base import Batch
from tests.support.databases import TestDatabase

TABLES = (
    "CREATE TABLE orders (id integer PRIMARY KEY, state varchar(20));;"
    "CREATE TABLE gone (id integer PRIMARY KEY, state varchar(20));;"
    "CREATE TABLE totals (id integer PRIMARY KEY, n integer, note varchar(20));;"
    "INSERT INTO orders VALUES (1, 'new');;INSERT INTO gone VALUES (1, 'new');;INSERT INTO totals VALUES (1, 1, 'x')"
)
RULES = {
    "orders": TableRule(key=["id"], operations={"update"}),
    "gone": TableRule(key=["id"], operations={"delete"}),
    "totals": TableRule(conflict="add", key=["id"], add=["n"]),
}
REQUESTS = [
    WriteRequest("r1", [Record("orders", {"id": 1, "state": "paid"}, operation="update")]),
    WriteRequest("r2", [Record("gone", {"id": 1}, operation="delete")]),
    WriteRequest("r3", [Record("totals", {"id": 1, "n": 5})]),
]


async def _write_as(url: sa.URL) -> None:
    sink = SqlSink(url, tables=RULES, create_ledger=False, dead_letters=None)
    await sink.open()
    try:
        outcomes = await sink.write(Batch(REQUESTS, id="main-0/1"))
    finally:
        await sink.close()
    assert [outcome.kind.value for outcome in outcomes] == ["written"] * 3, outcomes


async def test_on_postgresql_each_operation_needs_its_own_right(postgresql: TestDatabase) -> None:
    postgresql.execute(TABLES)
    postgresql.run_ddl(SqlSink(postgresql.url).ledger_ddl())
    role = f"changer_{sa.make_url(postgresql.url).database}"
    postgresql.execute(
        f"CREATE ROLE {role} LOGIN;;GRANT USAGE ON SCHEMA public TO {role};;"
        f"GRANT SELECT, INSERT, UPDATE ON batching_ledger TO {role};;"
        f"GRANT SELECT (id), UPDATE (state) ON orders TO {role};;"
        f"GRANT SELECT (id), DELETE ON gone TO {role};;"
        f"GRANT SELECT (id, n), INSERT, UPDATE (n) ON totals TO {role}"
    )
    try:
        await _write_as(sa.make_url(postgresql.url).set(username=role))
    finally:
        postgresql.execute(f"DROP OWNED BY {role};;DROP ROLE {role}")
    assert postgresql.rows("SELECT (SELECT state FROM orders), (SELECT count(*) FROM gone), n FROM totals") == [
        ("paid", 0, 6)
    ]


async def test_on_mariadb_each_operation_needs_its_own_right(mariadb: TestDatabase) -> None:
    mariadb.execute(TABLES)
    mariadb.run_ddl(SqlSink(mariadb.url).ledger_ddl())
    name = sa.make_url(mariadb.url).database
    role = f"changer_{name}"
    mariadb.execute(
        f"CREATE USER {role}@localhost;;"
        f"GRANT SELECT, INSERT, UPDATE ON {name}.batching_ledger TO {role}@localhost;;"
        f"GRANT SELECT, UPDATE ON {name}.orders TO {role}@localhost;;"
        f"GRANT SELECT, DELETE ON {name}.gone TO {role}@localhost;;"
        f"GRANT SELECT, INSERT, UPDATE ON {name}.totals TO {role}@localhost"
    )
    try:
        await _write_as(sa.make_url(mariadb.url).set(username=role))
    finally:
        mariadb.execute(f"DROP USER {role}@localhost")
    assert mariadb.rows("SELECT (SELECT state FROM orders), (SELECT count(*) FROM gone), n FROM totals") == [
        ("paid", 0, 6)
    ]
