"""The two services as a person runs them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sqlite3
from contextlib import AsyncExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from temporalio.client import Client
from tests.acceptance.conftest import PATIENCE, SERVICES, UV, serves
from tests.support.waiting import assert_eventually

from temporal_batching.cli.connect import connect
from temporal_batching.cli.console import CommandError
from temporal_batching.testing.servers import free_port, temporal_server

if TYPE_CHECKING:
    from tests.acceptance.conftest import Process, Start

PAYMENTS = "examples/payments.csv"


def _apart(name: str, temporal: str) -> dict[str, str]:
    """A batcher and task queues of a test's own, for the server is shared."""
    return {
        "TEMPORAL_ADDRESS": temporal,
        "BATCHING_NAME": name,
        "BATCHING_TASK_QUEUE": f"batcher-{name}",
        "MAIN_TASK_QUEUE": f"main-{name}",
    }


async def test_the_commands_of_the_readme_with_their_defaults_book_ten_payments_in_one_batch(start: Start) -> None:
    """The batcher prints its batch, the starter its results; Temporal knows every workflow; a signal ends in order.

    They run as README has them, with `uv run` where there is a uv; only the ports are others, for these may be taken.
    """

    async def run(command: str, **variables: str) -> Process:
        prefix, _, program = command.partition(" python ")
        assert prefix == "uv run"
        script, *options = program.split()
        if UV is not None:
            # Once everything is there, `uv run` must not need anybody else.
            return await start("uv run", "python", script, *options, UV_OFFLINE="1", **variables)
        return await start("python", script, *options, **variables)

    port, ui_port = free_port(), free_port()
    where = {"TEMPORAL_ADDRESS": f"127.0.0.1:{port}"}
    if UV is not None:
        options = ("server", "start-dev", "--port", str(port), "--ui-port", str(ui_port))
        await start("uv run", "temporal", *options, UV_OFFLINE="1")
    async with AsyncExitStack() as stack:
        if UV is None:
            directory = Path(stack.enter_context(TemporaryDirectory()))
            await stack.enter_async_context(temporal_server(directory=directory, port=port, ui_port=ui_port))
        client = await answering(where["TEMPORAL_ADDRESS"])
        batcher = await run("uv run python batcher-service/worker.py", **where)
        main = await run("uv run python main-service/worker.py", **where)
        await batcher.says("Batcher 'main' .* sink console")
        monitor = await run("uv run python batcher-service/starter.py", **where)
        await monitor.says("main-0 state=idle pending=0")
        starter = await run("uv run python main-service/starter.py --workflows 10", **where)
        assert await starter.ends() == 0, starter.output
        assert starter.lines[-1] == "10 payments: 10 written in 1 batch, largest 10."
        assert len(re.findall(r"  written  +main-0\.[0-9a-f]{8}/1  +10  ", starter.output)) == 10
        await batcher.says(r"batch main-0\.[0-9a-f]{8}/1 .*trigger=linger.* 10 requests, 10 records")
        await monitor.says("main-0 state=gathering pending=[1-9].* written=0")
        await monitor.says("written=10")
        query = "WorkflowType = 'PaymentWorkflow' AND TaskQueue = 'main-workflow-queue'"
        assert len([w async for w in client.list_workflows(query)]) == 10
        assert await monitor.stopped_by(signal.SIGINT) == 0
        assert await main.stopped_by(signal.SIGTERM) == 0
        assert await batcher.stopped_by(signal.SIGINT) == 0
        assert batcher.lines[-1] == "Stopped."
        assert "Traceback" not in batcher.output + main.output + starter.output + monitor.output


async def answering(address: str) -> Client:
    """A client of a server that is coming up."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await connect(address=address, environment={"TEMPORAL_CONFIG_FILE": os.devnull})
            except CommandError:
                await asyncio.sleep(0.2)


@pytest.mark.skipif(UV is None, reason="this checkout was set up without uv")
async def test_uv_run_needs_no_network_once_everything_is_there(start: Start) -> None:
    process = await start("uv run", "python", "-c", "import temporal_batching.cli.app", UV_OFFLINE="1")
    assert await process.ends() == 0, process.output


async def test_a_payment_that_is_repeated_by_another_way_in_is_booked_once(
    start: Start, temporal: str, tmp_path: Path
) -> None:
    where = _apart("ways-in", temporal)
    database = tmp_path / "payments.db"
    sink = {"BATCHING_SINK": f"sqlite:///{database}", "BATCHING_LINGER": "200ms"}
    await start("batcher worker", "--create-tables", **where, **sink)
    await start("main worker", **where)
    ways_in = (("--via", "activity"), ("--via", "signal"), ("--gateway", "batcher"))
    for way_in, outcome in zip(ways_in, ("written", "duplicate", "duplicate"), strict=True):
        starter = await start("main starter", "--input", PAYMENTS, "--workflows", "10", *way_in, **where)
        assert await starter.ends() == 0, starter.output
        assert starter.lines[-1].startswith(f"10 payments: 10 {outcome} in ")
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT count(*), count(DISTINCT payment_id) FROM entries").fetchone() == (10, 10)


async def test_the_monitor_follows_a_batcher_through_every_continue_as_new(start: Start, temporal: str) -> None:
    where = _apart("follow", temporal)
    await start("batcher worker", "--linger", "50ms", **where)
    await start("main worker", **where)
    monitor = await start("batcher starter", "--interval", "100ms", **where)
    await monitor.says("follow-0 found: run")
    # As many events as the server suggests to continue after: each payment's signal is one.
    starter = await start("main starter", "--workflows", "80", **where)
    assert await starter.ends() == 0, starter.output
    await monitor.says(r"follow-0 continued as new.* run \w{8} -> \w{8} \(cycle \d+")
    await monitor.says("state=idle .*written=80 ")


async def test_operators_commands_reach_the_batcher(start: Start, temporal: str) -> None:
    where = _apart("operated", temporal)
    worker = await start("batcher worker", "--shards", "2", **where)
    await worker.says("shards: 2")
    await serves(temporal, "operated", shards=2)
    said = {"pause": "is paused", "stats": "operated-1 state=paused", "drain": "is drained", "resume": "runs"}
    said["adopt-ledger --identity none"] = "goes on in the ledger none"
    for command, answer in said.items():
        process = await start("temporal-batching", *command.split(), "--shards", "2", **where)
        await process.says(answer)
        assert await process.ends() == 0
    process = await start("temporal-batching", "configure", "--linger", "3s", "--shards", "2", **where)
    assert await process.ends() == 0
    process = await start("temporal-batching", "stats", "--json", "--shards", "2", **where)
    await process.says('"linger": 3.0')


async def test_an_operator_resends_dead_letters(start: Start, temporal: str, tmp_path: Path) -> None:
    where = _apart("letters", temporal) | {"BATCHING_SINK": f"sqlite:///{tmp_path}/rows.db", "BATCHING_LINGER": "100ms"}
    with closing(sqlite3.connect(tmp_path / "rows.db", isolation_level=None)) as database:
        database.execute("CREATE TABLE articles (id integer PRIMARY KEY)")
        database.execute("CREATE TABLE orders (article integer NOT NULL REFERENCES articles)")
        worker = await start("batcher worker", **where)
        await serves(temporal, "letters")
        process = await start("temporal-batching", "dead-letters", **where)
        assert await process.ends() == 0
        assert process.lines == ["No dead letters."]
        client = await Client.connect(temporal)
        wires = [{"request_id": f"o-{n}", "records": [{"table": "orders", "values": {"article": n}}]} for n in range(3)]
        await client.get_workflow_handle("batcher-letters-0").signal("add_write_request", wires)
        await worker.says("without a reply address.*'o-0' .*'o-1' .*'o-2' .*kept as dead letters")
        process = await start("temporal-batching", "dead-letters", **where)
        assert await process.ends() == 0
        assert [line.split("  ")[2:5:2] for line in process.lines] == [[f"o-{n}", "constraint"] for n in range(3)]
        process = await start("temporal-batching", "resend", "--all", **where)
        assert await process.ends() == 1
        database.execute("INSERT INTO articles VALUES (0), (1), (2)")
        process = await start("temporal-batching", "resend", "--all", **where)
        assert await process.ends() == 0, process.output
        assert process.lines[-1] == "3 dead letters of 3 written."
        assert sorted(database.execute("SELECT article FROM orders")) == [(0,), (1,), (2,)]


async def test_an_operator_looks_up_a_request_and_prunes_the_ledger(
    start: Start, temporal: str, tmp_path: Path
) -> None:
    where = _apart("ledger", temporal) | {"BATCHING_SINK": f"sqlite:///{tmp_path}/rows.db", "BATCHING_LINGER": "100ms"}
    with closing(sqlite3.connect(tmp_path / "rows.db", isolation_level=None)) as database:
        database.execute("CREATE TABLE orders (id integer)")
        await start("batcher worker", **where)
        await serves(temporal, "ledger")
        process = await start("temporal-batching", "lookup", "o-1", **where)
        assert await process.ends() == 1
        assert process.lines == ["o-1  not in the ledger"]
        client = await Client.connect(temporal)
        wire = {"request_id": "o-1", "records": [{"table": "orders", "values": {"id": 1}}]}
        await client.get_workflow_handle("batcher-ledger-0").signal("add_write_request", wire)

        async def written() -> None:
            assert list(database.execute("SELECT id FROM orders")) == [(1,)]

        await assert_eventually(written)
        process = await start("temporal-batching", "lookup", "o-1", "--json", **where)
        assert await process.ends() == 0
        assert json.loads(process.lines[0])["outcome"] == "written"
        process = await start("temporal-batching", "prune", "--older-than", "1m", **where)
        assert await process.ends() == 1
        assert "--older-than 1m: more than 150s" in process.output
        process = await start("temporal-batching", "prune", "--older-than", "30d", **where)
        assert await process.ends() == 0, process.output
        assert process.lines[-1].startswith("0 ids of 1 deleted from batching_ledger")
        process = await start("temporal-batching", "lookup", "o-1", BATCHING_SINK="sqlite:////nowhere/rows.db")
        assert await process.ends() == 2


async def test_without_a_batcher_payments_fail_and_say_why(start: Start, temporal: str) -> None:
    where = _apart("absent", temporal)
    await start("main worker", **where)
    starter = await start("main starter", "--workflows", "2", "--timeout", "2s", **where)
    assert await starter.ends() == 1
    assert "WriteNot" in starter.lines[-1]
    assert "Traceback" not in starter.output


async def test_without_temporal_a_command_ends_with_one_line(start: Start) -> None:
    address = f"127.0.0.1:{free_port()}"
    where = {"TEMPORAL_ADDRESS": address, "TEMPORAL_API_KEY": "s3cret-key"}
    for process in [await start(command, **where) for command in SERVICES]:
        assert await process.ends() == 1
        assert [address in line for line in process.lines] == [True], process.output
        assert "s3cret" not in process.output


async def test_without_its_database_a_worker_ends_with_one_line(start: Start, temporal: str) -> None:
    sink = f"postgresql://ann:s3cret@127.0.0.1:{free_port()}/ledger"
    process = await start("batcher worker", TEMPORAL_ADDRESS=temporal, BATCHING_SINK=sink)
    assert await process.ends() == 1
    assert ["127.0.0.1" in line for line in process.lines] == [True]
    assert "s3cret" not in process.output


@pytest.mark.parametrize(
    ("name", "text", "complaints"),
    [
        (
            "bad.csv",
            "payment_id,account,amount,currency,booked_at,memo\n"
            "p-1,a,1.00,EUR,2026-03-02T06:00:00+00:00,fine\n"
            "p-2,a,1.005,EUR,2026-03-02T06:00:00+00:00,\n"
            "p-1,a,1.00,EUR,2026-03-02T06:00:00+00:00,\n"
            "p-3,a,1.00\n",
            ["line 3: amount '1.005'", "line 4: payment_id 'p-1': line 2 has it", "line 5: 3 fields"],
        ),
        (
            "bad.jsonl",
            '{"payment_id": "j-1", "account": "a", "amount": 1.10, "currency": "EUR", "booked_at": "2026-03-02"}\n'
            "{\n"
            '{"payment": 1}\n',
            ["line 1: booked_at '2026-03-02'", "line 2: not JSON", "line 3: unknown field 'payment'"],
        ),
        ("head.csv", "payment_id,amount\np-1,1\n", ["line 1: the header lacks account, currency, booked_at"]),
        ("empty.csv", "payment_id,account,amount,currency,booked_at\n", ["holds no payments"]),
    ],
)
async def test_a_bad_input_file_is_reported_line_by_line_before_anything_starts(
    name: str, text: str, complaints: list[str], start: Start, tmp_path: Path
) -> None:
    file = tmp_path / name
    file.write_text(text)
    process = await start("main starter", "--input", str(file), TEMPORAL_ADDRESS="127.0.0.1:1")
    assert await process.ends() == 1
    assert len(process.lines) == len(complaints)
    for line, complaint in zip(process.lines, complaints, strict=True):
        assert str(file) in line
        assert complaint in line
