"""`temporal-batching audit` agrees with a healthy deployment, and finds every way in which a database was damaged."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from temporalio.client import Client

from temporal_batching import Record, SqlSink, TableRule, WriteRequest
from temporal_batching.audit import AuditReport, audit
from tests.integration.test_codec import encrypting_client
from tests.support.callers import WAYS_IN, Write
from tests.support.databases import TestDatabase, mariadb_database
from tests.support.service import Service, running
from tests.support.waiting import assert_eventually

__all__ = ["encrypting_client"]

ROWS = {
    "sqlite": "integer PRIMARY KEY",
    "postgresql": "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    "mariadb": "bigint AUTO_INCREMENT PRIMARY KEY",
}
SCHEMA = """
CREATE TABLE payments (id varchar(40) PRIMARY KEY, amount numeric(10, 2) NOT NULL, due timestamp with time zone,
  note text, seen boolean);;
CREATE TABLE items (number {number}, payment varchar(40) NOT NULL, amount numeric(10, 2), note text)
"""
"""One table whose records bring their key, and one that would take anything twice."""


def create(database: TestDatabase) -> None:
    database.execute(SCHEMA.format(number=ROWS[database.dialect]))


def payment(name: str, amount: Any = "9.5", **values: Any) -> list[Any]:
    due = "2026-01-31T12:00:00+02:00"
    return ["payments", {"id": name, "amount": amount, "due": due, "note": 'café \\ "x"', "seen": True, **values}]


def line(name: str, amount: Any = 1, note: str | None = None) -> list[Any]:
    return ["items", {"payment": name, "amount": amount, "note": note}]


async def known(service: Service, workflows: int, activities: int = 0) -> None:
    """Waits until visibility, which comes a moment later, knows all callers and how they ended."""

    async def check() -> None:
        ended = f"TaskQueue = '{service.callers_queue}' AND ExecutionStatus != 'Running'"
        assert (await service.client.count_workflows(ended)).count >= workflows
        if activities:
            ended = f"TaskQueue = '{service.queue}' AND ExecutionStatus != 'Running'"
            assert (await service.client.count_activities(ended)).count >= activities

    await assert_eventually(check)


async def audited(
    service: Service, database: TestDatabase, *, client: Client | None = None, query: str | None = None, **options: Any
) -> AuditReport:
    query = query or f"TaskQueue = '{service.callers_queue}'"
    names: dict[str, Any] = {"batcher": service.name, "task_queue": service.queue}
    return await audit(client or service.client, database.url, query=query, **names, **options)


def broken(report: AuditReport) -> set[tuple[str, str]]:
    return {(str(violation.rule), violation.request_id) for violation in report.violations}


@dataclass
class Deployment:
    """A batcher that ran, its callers' histories, and the database it left."""

    service: Service
    database: TestDatabase
    began: float
    ended: float
    copies: Iterator[int] = field(default_factory=itertools.count)

    @contextmanager
    def copied(self) -> Iterator[TestDatabase]:
        """The database, to be damaged."""
        if self.database.dialect == "sqlite":
            original = self.database.engine.url.database
            copy = f"{original}.{next(self.copies)}"
            shutil.copyfile(str(original), copy)
            engine = sa.create_engine(f"sqlite:///{copy}")
            yield TestDatabase("sqlite", f"sqlite:///{copy}", engine)
            engine.dispose()
            return
        url = self.database.engine.url
        if self.database.dialect == "mariadb":
            with mariadb_database(url, f"{url.database}_{next(self.copies)}") as database:
                for (table,) in self.database.rows("SHOW TABLES"):
                    database.execute(
                        f"CREATE TABLE {table} LIKE {url.database}.{table};;"
                        f"INSERT INTO {table} SELECT * FROM {url.database}.{table}"
                    )
                yield database
            return
        with fresh_postgresql(url, f"{url.database}_{next(self.copies)}", template=url.database) as database:
            yield database


@contextmanager
def fresh_postgresql(server: sa.URL, name: str, template: str | None = None) -> Iterator[TestDatabase]:
    maintenance = sa.create_engine(server.set(database="postgres"), isolation_level="AUTOCOMMIT")
    url = server.set(database=name)
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with maintenance.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else ""))
        yield TestDatabase("postgresql", url.render_as_string(hide_password=False), engine)
        engine.dispose()
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    maintenance.dispose()


@pytest.fixture(scope="module", params=["sqlite", "postgresql", "mariadb"])
async def healthy(
    client: Client, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Deployment]:
    """A deployment in which all went well: requests of three records, a repetition, and a refusal, by every way in."""
    with ExitStack() as stack:
        if request.param == "sqlite":
            url = f"sqlite:///{tmp_path_factory.mktemp('healthy')}/healthy.db"
            database = TestDatabase("sqlite", url, sa.create_engine(url, poolclass=sa.NullPool))
        elif request.param == "mariadb":
            server = request.getfixturevalue("mariadb_process").url
            database = stack.enter_context(mariadb_database(server, f"healthy_{uuid4().hex[:8]}"))
        else:
            server = request.getfixturevalue("postgresql_server")
            database = stack.enter_context(fresh_postgresql(server, f"healthy_{uuid4().hex[:8]}"))
        create(database)
        began = time.time() - 1
        async with running(client, SqlSink(database.url)) as service:
            for way_in in WAYS_IN:
                await use(service, way_in)
            await known(service, 2 * len(WAYS_IN))
        yield Deployment(service, database, began, time.time())


async def use(service: Service, way_in: str) -> None:
    writes = [
        Write([payment(f"{way_in}-{n}"), line(f"{way_in}-{n}"), line(f"{way_in}-{n}", 2, "x")], "k", f"{way_in}-{n}")
        for n in range(2)
    ]
    results = await service.call(way_in, writes)
    refused = Write([line("no"), payment(f"{way_in}-0")], request_id=f"{way_in}-refused")
    results += await service.call(way_in, [writes[0], refused])
    assert [one.outcome for one in results] == ["written", "written", "duplicate", "rejected"]


async def test_a_healthy_deployment_passes_by_every_way_in(healthy: Deployment) -> None:
    report = await audited(healthy.service, healthy.database, complete=True)
    assert broken(report) == set()
    assert report.holds
    assert report.unchecked == {}
    assert (report.workflows, report.requests, report.written, report.outside) == (6, 9, 6, 0)
    assert report.results == {"duplicate": 3, "rejected": 3, "written": 6}
    assert report.records == 3 * 6 + 2 * 3


DAMAGES = {
    "a row with a key of its own is deleted": (
        "DELETE FROM payments WHERE id = 'signal-1'",
        {("incomplete request", "signal-1")},
    ),
    "a row without any key is deleted": (
        "DELETE FROM items WHERE payment = 'local-0' AND note = 'x'",
        {("incomplete request", "local-0")},
    ),
    "a row is doubled": (
        "INSERT INTO items (payment, amount, note) SELECT payment, amount, note FROM items"
        " WHERE payment = 'activity-1' AND note = 'x'",
        {("applied twice", "activity-1")},
    ),
    "a ledger row is missing": (
        "DELETE FROM batching_ledger WHERE request_id = 'activity-0'",
        {("rows without ledger", "activity-0")},
    ),
    "a value is altered where the row has a key": (
        "UPDATE payments SET amount = amount + 0.01 WHERE id = 'signal-0'",
        {("other values", "signal-0")},
    ),
    "another batch stands in the ledger": (
        "UPDATE batching_ledger SET batch_id = replace(batch_id, '-0.', '-9.') WHERE request_id = 'local-1'",
        {("confirmed with another batch", "local-1")},
    ),
}
FURTHER_DAMAGES = {
    "all rows of a request are deleted": (
        "DELETE FROM items WHERE payment = 'local-0';;DELETE FROM payments WHERE id = 'local-0'",
        {("ledger without rows", "local-0"), ("written but missing", "local-0")},
    ),
    "a ledger row says that it expired": (
        "UPDATE batching_ledger SET status = 'expired' WHERE request_id = 'activity-0'",
        {("rows without ledger", "activity-0")},
    ),
    "a value becomes null where the row has a key": (
        "UPDATE payments SET seen = NULL WHERE id = 'signal-0'",
        {("other values", "signal-0")},
    ),
    "other records stand under the id": (
        "UPDATE batching_ledger SET digest = 'another' WHERE request_id = 'signal-1'",
        {("two requests under one id", "signal-1")},
    ),
    "a value is altered where the row has no key": (
        "UPDATE items SET amount = 7 WHERE payment = 'activity-1' AND note = 'x'",
        {("incomplete request", "activity-1")},
    ),
}
DAMAGES_OF_A_COMPLETE_ONE = {
    "a row is added": (
        "INSERT INTO payments (id, amount) VALUES ('extra', 1)",
        {("unexpected row", "")},
    ),
    "a row is added where anything may be": (
        "INSERT INTO items (payment) VALUES ('extra')",
        {("unexpected row", "")},
    ),
    "a row of a refused request is there": (
        "INSERT INTO items (payment, amount) VALUES ('no', 1)",
        {("unexpected row", "")},
    ),
    "an id is added": (
        "INSERT INTO batching_ledger SELECT 'extra', digest, batch_id, status, committed_at, returned"
        " FROM batching_ledger WHERE request_id = 'local-1'",
        {("unexpected ledger id", "extra")},
    ),
}


async def assert_found(
    healthy: Deployment, damages: dict[str, tuple[str, set[tuple[str, str]]]], *, complete: bool = False
) -> AuditReport:
    """Of damages to different requests each is found, and nothing else."""
    with healthy.copied() as database:
        database.execute(";;".join(statement for statement, _ in damages.values()))
        if complete:
            assert (await audited(healthy.service, database)).holds
        report = await audited(healthy.service, database, complete=complete)
    assert not report.holds
    assert broken(report) == set().union(*(expected for _, expected in damages.values()))
    return report


@pytest.mark.parametrize("damages", [DAMAGES, FURTHER_DAMAGES], ids=["one", "another"])
async def test_damage_is_found(damages: dict[str, Any], healthy: Deployment) -> None:
    await assert_found(healthy, damages)


async def test_an_unexpected_row_is_found_where_every_caller_is_known(healthy: Deployment) -> None:
    report = await assert_found(healthy, DAMAGES_OF_A_COMPLETE_ONE, complete=True)
    tables = [one.detail.partition(":")[0] for one in report.violations if one.rule == "unexpected row"]
    assert sorted(tables) == ["items", "items", "payments"]


# The ledger's tombstones have the outcome that the caller received


async def test_a_tombstone_has_the_outcome_that_its_caller_got_and_the_ledgers_own_row_is_no_request(
    healthy: Deployment,
) -> None:
    """The row without a request id says whose ledger it is."""
    of_the_refused = "batching_ledger WHERE request_id = 'local-refused'"
    with healthy.copied() as database:
        assert database.scalar("SELECT count(*) FROM batching_ledger WHERE request_id = ''") == 1
        assert database.scalar(f"SELECT status FROM {of_the_refused}") == "rejected"
        report = await audited(healthy.service, database, complete=True)
        assert (broken(report), report.unchecked, report.requests) == (set(), {}, 9)
        database.execute("UPDATE batching_ledger SET status = 'expired' WHERE request_id = 'local-refused'")
        report = await audited(healthy.service, database, complete=True)
    assert (broken(report), report.holds) == ({("ledger has another outcome", "local-refused")}, False)


# What is no damage


async def test_what_others_wrote_is_counted_and_no_violation(healthy: Deployment) -> None:
    """A query may choose callers. What the rest wrote is known from the shards' own histories."""
    query = f"TaskQueue = '{healthy.service.callers_queue}' AND WorkflowId = 'nobody'"
    report = await audited(healthy.service, healthy.database, query=query)
    assert (report.holds, report.workflows, report.requests, report.results) == (True, 0, 9, {})
    with healthy.copied() as database:
        database.execute("DELETE FROM payments WHERE id = 'local-0'")
        report = await audited(healthy.service, database, query=query)
    assert broken(report) == {("incomplete request", "local-0")}


async def test_only_what_was_asked_since_then_is_judged(healthy: Deployment) -> None:
    with healthy.copied() as database:
        database.execute("DELETE FROM payments;;DELETE FROM items;;DELETE FROM batching_ledger")
        report = await audited(healthy.service, database, since=datetime.fromtimestamp(healthy.ended, UTC))
        assert (report.holds, report.requests, report.unchecked) == (True, 0, {})
        report = await audited(healthy.service, database, since=datetime.fromtimestamp(healthy.began, UTC))
        assert (report.holds, report.requests) == (False, 9)


async def test_programs_writes_and_unfinished_callers_are_audited(client: Client, database: TestDatabase) -> None:
    create(database)
    async with running(client, SqlSink(database.url)) as service:
        writer = service.writer
        await writer.write(*payment("one"), request_id="one")
        requests = [WriteRequest(f"m{n}", [Record(*line("same"))], key="k") for n in range(20)]
        requests.append(WriteRequest("refused", [Record(*payment("one"))]))
        results = await writer.write_many(requests)
        assert sum(getattr(result, "outcome", "") == "written" for result in results) == 20
        await service.handle.pause()
        waits = await service.start("activity", [Write([payment("waits")], request_id="waits")])

        async def pending() -> None:
            assert (await service.stats()).pending == 1

        await assert_eventually(pending)
        await known(service, 0, activities=2)
        report = await audited(service, database, complete=True)
        assert (broken(report), report.unchecked) == (set(), {})
        assert report.results == {"rejected": 1, "unknown": 1, "written": 21}
        database.execute("DELETE FROM items WHERE number = (SELECT min(number) FROM items)")
        database.execute("INSERT INTO payments (id, amount) VALUES ('waits', 9.5)")
        report = await audited(service, database)
        assert len(broken(report)) == 2
        assert {rule for rule, _ in broken(report)} == {"ledger without rows", "written but missing"}
        await waits.terminate()


async def test_callers_with_a_codec_are_audited_with_it_and_not_misjudged_without(
    client: Client, encrypting_client: Client, sqlite: TestDatabase
) -> None:
    create(sqlite)
    async with running(encrypting_client, SqlSink(sqlite.url)) as service:
        for way_in in WAYS_IN:
            await use(service, way_in)
        await known(service, 2 * len(WAYS_IN))
        report = await audited(service, sqlite, complete=True)
        assert (broken(report), report.unchecked, report.requests) == (set(), {}, 9)
        report = await audited(service, sqlite, client=client)
    assert report.holds
    assert report.requests == 0
    assert report.unchecked["payloads that this client cannot read"] > 0


async def test_rules_for_conflicts_are_kept_in_mind(client: Client, database: TestDatabase) -> None:
    create(database)
    rules = {"payments": TableRule(conflict="update", key=["id"]), "items": TableRule(conflict="ignore")}
    async with running(client, SqlSink(database.url, tables=rules)) as service:
        writes = [Write([payment("one", n), line("one", n)], key="k", request_id=f"r{n}") for n in range(3)]
        results = [await service.call("activity", [write]) for write in writes]
        assert [one.outcome for (one,) in results] == ["written"] * 3
        await known(service, 3)
        report = await audited(service, database, tables=rules, complete=True)
        assert (broken(report), report.unchecked) == (set(), {})
        database.execute("UPDATE payments SET amount = 0")
        report = await audited(service, database, tables=rules)
        assert broken(report) == {("other values", "r2")}, "the last one of the key"
        database.execute("DELETE FROM payments")
        report = await audited(service, database, tables=rules)
    assert broken(report) == {("ledger without rows", "r2")}


async def test_requests_of_a_key_that_overtook_each_other_are_found(client: Client, sqlite: TestDatabase) -> None:
    create(sqlite)
    async with running(client, SqlSink(sqlite.url)) as service:
        for n in range(3):
            await service.call("activity", [Write([line("one", n)], key="k", request_id=f"r{n}")])
        await known(service, 3)
        sqlite.execute("UPDATE batching_ledger SET batch_id = replace(batch_id, '/1', '/9') WHERE request_id = 'r0'")
        report = await audited(service, sqlite)
    assert {violation for violation in broken(report) if violation[0] == "out of order"} == {
        ("out of order", "r1"),
        ("out of order", "r2"),
    }


async def test_an_audit_needs_no_more_than_to_read(healthy: Deployment) -> None:
    with healthy.copied() as database:
        if database.dialect == "sqlite":
            pytest.skip("SQLite has no roles; the file is opened for reading")
        if database.dialect == "mariadb":
            await _reads_only(healthy, database)
            return
        role = f"auditor_{uuid4().hex[:8]}"
        database.execute(f"CREATE ROLE {role} LOGIN;;GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
        try:
            reader = dataclasses.replace(database, url=_as_role(database, role))
            report = await audited(healthy.service, reader, complete=True)
            assert (report.holds, report.unchecked) == (True, {})
            database.execute(f"REVOKE SELECT ON items FROM {role}")
            report = await audited(healthy.service, reader, complete=True)
            assert report.holds
            assert report.unchecked == {"items: permission denied for table items": 12}
        finally:
            database.execute(f"DROP OWNED BY {role};;DROP ROLE {role}")


async def _reads_only(healthy: Deployment, database: TestDatabase) -> None:
    """MariaDB's auditor also makes temporary tables, for the values that it looks for."""
    name = database.engine.url.database
    role = f"auditor_{uuid4().hex[:8]}"
    database.execute(
        f"CREATE USER {role}@localhost;;GRANT CREATE TEMPORARY TABLES ON {name}.* TO {role}@localhost;;"
        f"GRANT SELECT ON {name}.batching_ledger TO {role}@localhost;;"
        f"GRANT SELECT ON {name}.payments TO {role}@localhost;;GRANT SELECT ON {name}.items TO {role}@localhost"
    )
    try:
        reader = dataclasses.replace(database, url=_as_role(database, role))
        report = await audited(healthy.service, reader, complete=True)
        assert (report.holds, report.unchecked) == (True, {})
        database.execute(f"REVOKE SELECT ON {name}.items FROM {role}@localhost")
        report = await audited(healthy.service, reader, complete=True)
        assert report.holds
        assert sum(report.unchecked.values()) == 12
    finally:
        database.execute(f"DROP USER {role}@localhost")


def _as_role(database: TestDatabase, role: str) -> str:
    return database.engine.url.set(username=role).render_as_string(hide_password=False)
