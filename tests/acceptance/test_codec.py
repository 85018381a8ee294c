"""A batcher whose payloads are encoded is operated with every command, and none of them sends anything in clear."""

from __future__ import annotations

import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from temporalio.client import Client
from tests.acceptance.conftest import COMMAND
from tests.support.codec import CONVERTER

if TYPE_CHECKING:
    from tests.acceptance.conftest import Start

SECRET = "the-plain-text-of-a-value"
COMMANDS = (
    ("stats", "--json"),
    ("monitor", "--once"),
    ("pause",),
    ("resume",),
    ("flush",),
    ("configure", "--linger", "50ms"),
    ("adopt-ledger", "--identity", "IDENTITY"),
    ("resend", "--all"),
    ("start",),
    ("drain",),
)


async def test_every_command_takes_the_data_converter_of_the_batcher(
    start: Start, temporal: str, tmp_path: Path
) -> None:
    plain = {
        "TEMPORAL_ADDRESS": temporal,
        "BATCHING_NAME": "encoded",
        "BATCHING_SINK": f"sqlite:///{tmp_path}/rows.db",
        "BATCHING_LINGER": "100ms",
    }
    encoded = plain | {"BATCHING_DATA_CONVERTER": "tests.support.codec:CONVERTER"}
    client = await Client.connect(temporal)
    config = client.config()
    config["data_converter"] = CONVERTER
    shard = Client(**config).get_workflow_handle("batcher-encoded-0")
    with closing(sqlite3.connect(tmp_path / "rows.db", isolation_level=None)) as database:
        database.execute("CREATE TABLE notes (text text NOT NULL, n integer CHECK (n < 5))")
        worker = await start(COMMAND, "worker", **encoded)
        await worker.says("Batcher 'encoded'")
        starting = await start(COMMAND, "start", **encoded)
        assert await starting.ends() == 0, starting.output
        wire = {"request_id": "o-1", "records": [{"table": "notes", "values": {"text": SECRET, "n": 9}}]}
        await shard.signal("add_write_request", [wire])
        await worker.says("kept as dead letters")
        query = "SELECT digest FROM batching_ledger WHERE request_id = ''"
        (identity,) = database.execute(query).fetchone()
        commands = [tuple(word.replace("IDENTITY", identity) for word in command) for command in COMMANDS]
        # Without it: one line that names the option, and nothing is sent.
        refused = [await start("temporal-batching", *command, **plain) for command in commands]
        refused.append(await start(COMMAND, "worker", **plain))  # executed, so it imports everything itself
        for process, command in zip(refused, (*commands, ("worker",)), strict=True):
            assert await process.ends() == 1, (command, process.output)
            assert len(process.lines) == 1, (command, process.output)
            assert "--data-converter" in process.lines[0]
        checked = await start("temporal-batching", "check", **plain)
        assert await checked.ends() == 1, checked.output
        assert "--data-converter" in checked.output
        # With it: every one.
        database.execute("ALTER TABLE notes RENAME TO strict_notes")
        database.execute("CREATE TABLE notes (text text NOT NULL, n integer)")
        for command in (("check",), *commands):
            process = await start("temporal-batching", *command, **encoded)
            assert await process.ends() == 0, (command, process.output)
        assert database.execute("SELECT text, n FROM notes").fetchall() == [(SECRET, 9)]
    history = await client.get_workflow_handle("batcher-encoded-0").fetch_history()
    for event in history.events:
        assert SECRET.encode() not in event.SerializeToString()
    sent = 0
    async for activity in client.list_activities(
        "ActivityType = 'batch_write' AND TaskQueue = 'batcher-queue-encoded'"
    ):
        handle = client.get_activity_handle(activity.activity_id, run_id=activity.activity_run_id)
        described = await handle.describe(include_input=True)
        assert described.raw_input is not None
        assert SECRET.encode() not in described.raw_input.SerializeToString()
        sent += 1
    assert sent == 1
    assert await worker.stopped_by(signal.SIGTERM) == 0
