"""`temporal-batching demo`: it holds its audit, whatever the form, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from temporalio.client import Client
from tests.acceptance.conftest import COMMAND
from tests.support.databases import TestDatabase

if TYPE_CHECKING:
    from tests.acceptance.conftest import Process, Start

FOREIGN_SINK = {"BATCHING_SINK": "postgresql://nobody@127.0.0.1:1/nowhere"}
"""A setting for other commands: the demo has a database of its own, unless its option names one."""


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The demo's directory for temporary files: whatever it starts has this path on its command line or around it."""
    # Not pytest's own directory: a Unix socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="s-") as path:
        monkeypatch.setenv("TMPDIR", path)
        yield Path(path)


def _left_behind(scratch: Path) -> list[str]:
    """Processes that mention the directory or were started for it, and files in it."""
    left = [str(path) for path in scratch.iterdir()]
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            around = (process / "environ").read_bytes().decode(errors="replace")
            if str(scratch) in command or f"TMPDIR={scratch}\0" in around:
                left.append(command)
    return left


async def _report(demo: Process) -> dict[str, Any]:
    assert await demo.ends() == 0, demo.output
    report: dict[str, Any] = json.loads(demo.lines[-1])
    return report


async def test_every_payment_is_in_the_database_once_and_what_stays_up_can_be_looked_into_as_it_says(
    start: Start, scratch: Path
) -> None:
    demo = await start(COMMAND, "demo", "--workflows", "120", "--sink", "postgresql", "--json", "--keep")
    await demo.says("Everything stays up until Ctrl-C: http://")
    (report,) = [json.loads(line) for line in demo.lines if line.startswith("{")]
    assert report["workflows"] == report["confirmed"] == report["rows"] == report["ledger_rows"] == 120
    assert report["failed"] == 0
    assert report["audit"] == "holds"
    assert 2 <= report["transactions"] <= 5
    assert report["largest_batch"] == 100
    (shard,) = [line.rpartition(" ")[2] for line in demo.lines if line.startswith("Shard 0, whether it is healthy")]
    assert re.fullmatch(
        r"http://127\.0\.0\.1:\d+/namespaces/default/workflows/batcher-.*-0/[0-9a-f-]{36}/user-metadata", shard
    )
    shown = [shlex.split(line) for line in demo.lines if line.startswith("  ")]
    queries = [command for command in shown if command[0] == "psql"]
    for _, url, _, query in queries:
        with psycopg.connect(url) as connection:
            assert len(connection.execute(query.encode()).fetchall()) == 5
    assert [query for *_, query in queries] == [
        f"SELECT * FROM {table} LIMIT 5" for table in ("entries", "batching_ledger")
    ]
    (again,) = [command for command in shown if command[0] == "temporal-batching"]
    audit = await start(*again)
    assert await audit.ends() == 0, audit.output
    assert await demo.stopped_by(signal.SIGINT) == 130
    assert _left_behind(scratch) == []


async def test_a_database_of_ones_own_serves_and_ports_in_use_and_foreign_settings_are_no_obstacle(
    start: Start, scratch: Path, mariadb: TestDatabase
) -> None:
    with contextlib.ExitStack() as stack:
        for port in (7233, 8233):
            taken = stack.enter_context(socket.socket())
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):  # somebody else's server has it, which serves as well
                taken.bind(("127.0.0.1", port))
                taken.listen()
        options = ("--workflows", "20", "--json", "--sink", mariadb.url, "--shards", "4", "--linger", "0")
        demo = await start("temporal-batching", "demo", *options, **FOREIGN_SINK, TEMPORAL_API_KEY="none")
        report = await _report(demo)
    assert report["confirmed"] == report["rows"] == report["ledger_rows"] == 20
    assert report["audit"] == "holds"
    assert mariadb.scalar("SELECT count(DISTINCT payment_id) FROM entries") == 20
    assert report["batcher_runs"] >= 4
    assert report["transactions"] <= 4, "with no linger they are held back, so that each shard writes its crowd at once"
    assert not report["web_ui"].endswith(":8233")
    assert _left_behind(scratch) == []


async def test_on_a_shared_temporal_it_brings_its_database_and_leaves_other_batchers_alone(
    start: Start, scratch: Path, temporal: str
) -> None:
    options = ("--workflows", "5", "--json", "--via", "activity", "--linger", "1s")
    demo = await start("temporal-batching", "demo", *options, **FOREIGN_SINK, TEMPORAL_ADDRESS=temporal)
    report = await _report(demo)
    assert report["confirmed"] == report["rows"] == 5
    assert report["web_ui"] is None
    client = await Client.connect(temporal)
    left = [w.id async for w in client.list_workflows("ExecutionStatus = 'Running'") if "demo" in w.id]
    assert left == []
    assert _left_behind(scratch) == []


@pytest.mark.parametrize(
    ("which", "moment"),
    [(signal.SIGINT, "starting 1,500"), (signal.SIGTERM, "Temporal's development server")],
)
async def test_a_signal_ends_it_without_a_trace(
    which: signal.Signals, moment: str, start: Start, scratch: Path
) -> None:
    demo = await start("temporal-batching", "demo", "--workflows", "1500", "--sink", "postgresql")
    await demo.says(moment)
    assert await demo.stopped_by(which) == 128 + which
    assert _left_behind(scratch) == []
    assert "Traceback" not in demo.output


async def test_a_database_that_cannot_be_reached_ends_it_with_one_line(start: Start, scratch: Path) -> None:
    demo = await start("temporal-batching", "demo", "--sink", "postgresql://ann:s3cret@127.0.0.1:1/ledger")
    assert await demo.ends() == 1
    assert ["127.0.0.1:1" in line for line in demo.lines] == [True]
    assert "s3cret" not in demo.output
    assert _left_behind(scratch) == []
