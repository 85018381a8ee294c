"""`temporal-batching demo`: it holds its audit, whatever the form, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.acceptance.conftest import Process, Start


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The demo's directory for temporary files: whatever it starts has this path on its command line or in its name."""
    path = tmp_path / "scratch"
    path.mkdir()
    monkeypatch.setenv("TMPDIR", str(path))
    return path


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


@pytest.mark.parametrize(
    ("workflows", "options", "most_batches"),
    [
        (300, ("--sink", "postgresql"), 6),
        (60, ("--via", "signal", "--linger", "1s"), 10),
        (60, ("--shards", "4", "--linger", "0"), 60),
    ],
)
async def test_every_payment_is_confirmed_and_in_the_database_once(
    workflows: int, options: tuple[str, ...], most_batches: int, start: Start, scratch: Path
) -> None:
    demo = await start("temporal-batching", "demo", "--workflows", str(workflows), "--json", *options)
    report = await _report(demo)
    assert report["workflows"] == report["confirmed"] == report["rows"] == report["ledger_rows"] == workflows
    assert report["failed"] == report["duplicates"] == 0
    assert report["audit"] == "holds"
    assert 1 <= report["batches"] <= most_batches
    assert report["largest_batch"] <= 100
    assert report["sink_transactions"] == report["batches"]
    assert report["batcher_runs"] >= (4 if "--shards" in options else 1)
    assert _left_behind(scratch) == []


async def test_ports_in_use_and_foreign_settings_are_no_obstacle(start: Start, scratch: Path) -> None:
    with contextlib.ExitStack() as stack:
        for port in (7233, 8233):
            taken = stack.enter_context(socket.socket())
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):  # somebody else's server has it, which serves as well
                taken.bind(("127.0.0.1", port))
                taken.listen()
        foreign = {"BATCHING_SINK": "postgresql://nobody@127.0.0.1:1/nowhere", "TEMPORAL_API_KEY": "none"}
        demo = await start("temporal-batching", "demo", "--workflows", "5", "--linger", "0", "--json", **foreign)
        report = await _report(demo)
    assert report["confirmed"] == 5
    assert not report["web_ui"].endswith(":8233")


async def test_on_anybodys_temporal_it_keeps_out_of_their_batchers_way(start: Start, temporal: str) -> None:
    demo = await start(
        "temporal-batching", "demo", "--workflows", "5", "--linger", "0", "--json", TEMPORAL_ADDRESS=temporal
    )
    report = await _report(demo)
    assert report["confirmed"] == 5
    assert report["web_ui"] is None


@pytest.mark.parametrize(
    ("which", "moment"),
    [(signal.SIGINT, "started 1"), (signal.SIGTERM, "Temporal's development server")],
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
