"""Rejected requests without a reply address are kept, once each, and can be resubmitted when the cause is gone."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from temporalio.client import Client

from temporal_batching import BatchPolicy, MemorySink, SqlSink
from temporal_batching.cli.console import CommandError
from temporal_batching.cli.letter_box import list_dead_letters, resend_dead_letters
from temporal_batching.contract import Outcome, Record, RejectCode, WriteRequest
from temporal_batching.errors import SinkError, SinkUnavailable
from temporal_batching.settings import BatcherSettings, SettingsError, load
from temporal_batching.sinks.dead_letters import DEFAULT_DEAD_LETTERS, DeadLetter, read_content
from tests.support.callers import WAYS_IN, Write
from tests.support.databases import TestDatabase
from tests.support.service import QUICK, Service, entry, running
from tests.support.waiting import assert_eventually

ENTRIES = "CREATE TABLE entries (n integer NOT NULL, CONSTRAINT small CHECK (n < 100))"
LETTERS = f"SELECT request_id, code FROM {DEFAULT_DEAD_LETTERS} ORDER BY request_id"

KINDS = ("sqlite", "postgresql", "mariadb")

ODD = "\x00\ud800 \u202e"


def letter(request_id: str = "r", *, batch_id: str = "main-0/1", values: Any = None) -> DeadLetter:
    request = WriteRequest(request_id, [Record("entries", values or {"n": 1})], key="k", expires_at=1.0)
    return DeadLetter(request, Outcome.rejected(RejectCode.CONSTRAINT, "too large"), batch_id)


async def tell(service: Service, *numbers: Any, key: str = "") -> None:
    """Sends one request each, as a program that wants no answer."""
    wires = [
        {"request_id": f"r-{n}", "key": key, "records": [{"table": "entries", "values": {"n": n}}]} for n in numbers
    ]
    await service.shard().signal("add_write_request", wires)


async def until_settled(service: Service, count: int) -> None:
    async def settled() -> None:
        assert sum((await service.stats()).outcomes.values()) == count

    await assert_eventually(settled)


def settings_for(service: Service, database: TestDatabase) -> BatcherSettings:
    return load({"sink": database.url, "name": service.name, "task_queue": service.queue})


async def test_a_rejected_request_without_reply_address_is_kept_and_its_neighbours_are_written(
    client: Client, database: TestDatabase
) -> None:
    database.execute(ENTRIES)
    async with running(client, database.sink()) as service:
        await tell(service, 1, 500, 2, "x")
        await until_settled(service, 4)
        assert (await service.stats()).outcomes == {"written": 2, "rejected": 2}
    assert database.rows("SELECT n FROM entries ORDER BY n") == [(1,), (2,)]
    assert database.rows(LETTERS) == [("r-500", "constraint"), ("r-x", "type")]


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_a_caller_that_is_notified_needs_no_dead_letter(client: Client, database: TestDatabase) -> None:
    database.execute(ENTRIES)
    async with running(client, database.sink()) as service:
        results = await asyncio.gather(*(service.call(way_in, [entry(500)]) for way_in in WAYS_IN))
        assert [one.error for (one,) in results] == ["WriteRejected"] * len(WAYS_IN)
    tables = database.sink()
    await tables.open()
    # Nor the table for them: a role that may not create tables never has to.
    with pytest.raises(Exception, match=f"(?i){DEFAULT_DEAD_LETTERS}"):
        database.rows(LETTERS)


async def test_a_letter_is_kept_once_however_often_its_batch_is_tried(database: TestDatabase) -> None:
    sink = database.sink()
    for _ in range(3):
        assert await sink.keep_dead_letters([letter("a"), letter("b")])
    assert await sink.keep_dead_letters([letter("a", batch_id="main-0/2")])
    assert [row[0] for row in database.rows(LETTERS)] == ["a", "a", "b"]


async def test_the_first_letters_of_two_workers_are_both_kept(postgresql: TestDatabase) -> None:
    """IF NOT EXISTS does not help who waits for another's CREATE TABLE."""
    sink = postgresql.sink()
    await sink.open()
    with postgresql.engine.begin() as other:
        other.execute(sa.text(sink.dead_letters_ddl()))
        keeping = asyncio.create_task(sink.keep_dead_letters([letter()]))

        async def waits() -> None:
            assert postgresql.scalar("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") > 0

        await assert_eventually(waits)
    assert await keeping
    assert postgresql.rows(LETTERS) == [("r", "constraint")]


async def test_more_letters_than_a_statement_takes_values_are_kept(database: TestDatabase) -> None:
    # 32,766 values in SQLite, else 65,535, of which a letter has eight.
    count = 4_200 if database.dialect == "sqlite" else 8_300
    await database.sink().keep_dead_letters([letter(f"{n}") for n in range(count)])
    assert database.scalar(f"SELECT count(*) FROM {DEFAULT_DEAD_LETTERS}") == count


async def test_whatever_a_request_holds_comes_back_as_it_came(database: TestDatabase) -> None:
    odd = letter(ODD, values={ODD: ODD, "n": 2**63, "deep": [{"x": None}, True, 1.5]})
    await database.sink().keep_dead_letters([odd])
    ((content,),) = database.rows(f"SELECT request FROM {DEFAULT_DEAD_LETTERS}")
    back = read_content(content)
    assert (back.request_id, back.key, list(back.records)) == (odd.request.request_id, "k", odd.request.records)
    assert back.expires_at is None


async def test_no_request_can_write_letters_itself(client: Client, database: TestDatabase) -> None:
    database.execute(ENTRIES)
    sink = database.sink()
    await sink.keep_dead_letters([letter()])
    async with running(client, sink) as service:
        bad = [Write([[name, {"n": 1}]]) for name in (DEFAULT_DEAD_LETTERS, DEFAULT_DEAD_LETTERS.upper())]
        results = await service.call("activity", bad)
    assert [(one.error, one.code) for one in results] == [("WriteRejected", "unknown_table")] * 2


TROUBLES = [
    *((dialect, trouble) for dialect in KINDS for trouble in ("another table", "a stricter table")),
    ("postgresql", "no table"),
    ("sqlite", "turned off"),  # no database is asked
]


@pytest.mark.parametrize(("database", "trouble"), TROUBLES, indirect=["database"])
async def test_dead_letters_that_cannot_be_kept_block_no_batch_and_are_logged(
    client: Client, database: TestDatabase, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    database.execute(ENTRIES)
    options: dict[str, Any] = {}
    if trouble == "no table":
        database.run_ddl(SqlSink(database.url).ledger_ddl())
        options = {"create_ledger": False}
    elif trouble == "another table":
        database.execute(f"CREATE TABLE {DEFAULT_DEAD_LETTERS} (n integer)")
    elif trouble == "a stricter table":
        database.execute(SqlSink(database.url).dead_letters_ddl().replace("PRIMARY KEY (id)", "more TEXT NOT NULL"))
    else:
        options = {"dead_letters": None}
    with caplog.at_level(logging.WARNING, "temporalio.activity"):
        async with running(client, database.sink(**options)) as service:
            await tell(service, 1, 500)
            await until_settled(service, 2)
            assert [one.outcome for one in await service.call("activity", [entry(2)])] == ["written"]
    (line,) = [record.getMessage() for record in caplog.records if "without a reply address" in record.getMessage()]
    assert "'r-500' (constraint); gone" in line
    assert '"request_id"' not in caplog.text, "PostgreSQL quotes the row that failed"


async def test_letters_wait_for_a_database_that_is_away(client: Client) -> None:
    class Away(MemorySink):
        tries = 0

        async def keep_dead_letters(self, letters: Sequence[DeadLetter]) -> bool:
            self.tries += 1
            if self.tries < 3:
                raise SinkUnavailable("away", in_doubt=False)
            return await super().keep_dead_letters(letters)

    sink = Away(reject=lambda request: "no" if request.request_id == "r-500" else None)
    async with running(client, sink) as service:
        await tell(service, 1, 500)
        await until_settled(service, 2)
        assert (await service.stats()).outcomes == {"written": 1, "rejected": 1}
    assert [kept.request.request_id for kept in sink.dead_letters.values()] == ["r-500"]


async def test_a_sink_that_keeps_none_says_so(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    class Plain(MemorySink):
        async def keep_dead_letters(self, letters: Sequence[DeadLetter]) -> bool:
            if letters[0].request.request_id == "r-1":
                return False
            raise SinkError("no room for letters")

    with caplog.at_level(logging.WARNING, "temporalio.activity"):
        async with running(client, Plain(reject=lambda _: "no")) as service:
            for number in (1, 2):
                await tell(service, number)
                await until_settled(service, number)
    assert "'r-1' (constraint); gone, for the sink keeps none" in caplog.text
    assert "'r-2' (constraint); gone: no room for letters" in caplog.text


async def test_a_letter_that_breaks_the_sink_does_not_cost_the_others(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    class Brittle(MemorySink):
        async def keep_dead_letters(self, letters: Sequence[DeadLetter]) -> bool:
            if any(kept.request.request_id == "r-2" for kept in letters):
                raise RecursionError
            return await super().keep_dead_letters(letters)

    sink = Brittle(reject=lambda _: "no")
    with caplog.at_level(logging.WARNING, "temporalio.activity"):
        async with running(client, sink) as service:
            await tell(service, 1, 2, 3)
            await until_settled(service, 3)
    assert [kept.request.request_id for kept in sink.dead_letters.values()] == ["r-1", "r-3"]
    assert "'r-2' (constraint); gone: RecursionError" in caplog.text


async def test_a_refused_request_without_reply_address_is_logged(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    policy = BatchPolicy(linger=timedelta(minutes=5), max_pending=2, confirmation_timeout=timedelta(seconds=1))
    with caplog.at_level(logging.WARNING, "temporalio.workflow"):
        async with running(client, MemorySink(), policy) as service:
            await service.handle.pause()
            await tell(service, 1, 2, 3)
            await until_settled(service, 3)
            assert (await service.stats()).outcomes == {"expired": 2, "rejected": 1}
    assert "Not written, and without a reply address: 'r-3' (overloaded)" in caplog.text
    assert "Not written, and without a reply address: 'r-1' (expired), 'r-2' (expired)" in caplog.text


async def test_once_the_cause_is_gone_resent_letters_are_written_and_letters_no_more(
    client: Client, postgresql: TestDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    postgresql.execute(ENTRIES)
    async with running(client, postgresql.sink(), QUICK) as service:
        settings = settings_for(service, postgresql)
        await tell(service, 500, 501, 502, "x", key="k")
        await until_settled(service, 4)
        await list_dead_letters(settings, as_json=True)
        listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        came = [("r-500", "constraint"), ("r-501", "constraint"), ("r-502", "constraint"), ("r-x", "type")]
        assert [(one["request_id"], one["code"]) for one in listed] == came
        assert {one["key"] for one in listed} == {"k"}
        first = listed[0]["letter"]
        # Nothing has changed: it stays.
        assert await resend_dead_letters(client, settings, [first], every=False) == 1
        assert len(postgresql.rows(LETTERS)) == 4
        postgresql.execute("ALTER TABLE entries DROP CONSTRAINT small")
        assert await resend_dead_letters(client, settings, [first], every=False) == 0
        assert postgresql.rows("SELECT n FROM entries") == [(500,)]
        assert await resend_dead_letters(client, settings, [], every=True) == 1
        assert postgresql.rows("SELECT n FROM entries ORDER BY n") == [(500,), (501,), (502,)]
        assert postgresql.rows(LETTERS) == [("r-x", "type")]
        # Of one key: each after the one before it was written.
        of_one_key = "SELECT count(DISTINCT batch_id) FROM batching_ledger WHERE request_id IN ('r-501', 'r-502')"
        assert postgresql.scalar(of_one_key) == 2
        assert f"{first}: WriteRejected: write r-500: rejected" in capsys.readouterr().err


async def test_which_letters_has_to_be_said(client: Client, sqlite: TestDatabase) -> None:
    settings = load({"sink": sqlite.url})
    for ids, every in (([], False), (["a"], True)):
        with pytest.raises(SettingsError, match="which dead letters"):
            await resend_dead_letters(client, settings, ids, every=every)
    with pytest.raises(CommandError, match="no dead letter nowhere"):
        await resend_dead_letters(client, settings, ["nowhere"], every=False)
    with pytest.raises(SettingsError, match="only a database keeps dead letters"):
        await list_dead_letters(load({}), as_json=False)


async def test_letters_of_another_batcher_are_left_alone(
    client: Client, sqlite: TestDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    sink = sqlite.sink()
    await sink.open()
    theirs, ours = letter("r-a", batch_id="a-b-1.3f9a2c71/1"), letter("r-b", batch_id="b-1.3f9a2c71/1")
    assert await sink.keep_dead_letters([theirs, ours])
    settings, other = load({"sink": sqlite.url, "name": "b"}), load({"sink": sqlite.url, "name": "c"})
    await list_dead_letters(settings, as_json=True)
    result = capsys.readouterr()
    assert [json.loads(line)["request_id"] for line in result.out.splitlines()] == ["r-b"]
    assert "1 dead letter of another batcher: a-b" in result.err
    async with asyncio.timeout(20):
        assert await resend_dead_letters(client, other, [], every=True) == 0
        with pytest.raises(CommandError, match=f"{theirs.id} is of batcher 'a-b': --name a-b"):
            await resend_dead_letters(client, settings, [theirs.id], every=False)
    assert len(sqlite.rows(LETTERS)) == 2
