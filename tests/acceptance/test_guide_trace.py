"""Traces and the log, as their guide says: by programs, and by the command alone."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from temporalio.client import Client
from tests.acceptance.conftest import ROOT
from tests.support.databases import TestDatabase
from tests.support.waiting import assert_eventually

from temporal_batching.testing.servers import FAST, temporal_server

pytestmark = pytest.mark.documents

pytest.importorskip("opentelemetry.instrumentation.auto_instrumentation", reason="needs opentelemetry-distro")

if TYPE_CHECKING:
    from tests.acceptance.conftest import Start

PAGE = (ROOT / "docs" / "how-to" / "trace.md").read_text(encoding="utf-8")
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def program(title: str, directory: Path, **places: str) -> str:
    """A program of the page as a file, with the addresses of a test."""
    (code,) = re.findall(rf"^```python title=\"{title}\"\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for shown, real in places.items():
        assert code.count(shown) == 1
        code = code.replace(shown, real)
    (directory / title).write_text(code, encoding="utf-8")
    return str(directory / title)


async def test_the_programs_of_the_page_trace_a_write(start: Start, postgresql: TestDatabase, tmp_path: Path) -> None:
    postgresql.execute("CREATE TABLE entries (account text NOT NULL, amount numeric NOT NULL)")
    async with temporal_server(directory=tmp_path, port=0, ui_port=0, options=FAST) as server:
        place = {"localhost:7233": server.address}
        database = {"postgresql://app@localhost/app": postgresql.url}
        worker = await start("python", program("traced_worker.py", tmp_path, **place, **database))
        caller = await start("python", program("traced_caller.py", tmp_path, **place))
        assert await caller.ends() == 0, caller.output
        trace_id, batch_id, flush = caller.lines[-1].split()

        async def traced() -> None:
            assert '"name": "batching.request"' in worker.output

        await assert_eventually(traced)
    assert f'"trace_id": "0x{trace_id}"' in worker.output
    assert f'"batching.batch_id": "{batch_id}"' in worker.output
    assert f'"trace_id": "0x{flush.split("-")[1]}"' in worker.output
    assert "9.50" not in worker.output


async def test_a_worker_of_the_command_line_traces_and_logs(start: Start, temporal: str, tmp_path: Path) -> None:
    bin_directory = str(Path(sys.executable).parent)
    here = {
        "TEMPORAL_ADDRESS": temporal,
        "BATCHING_NAME": "traced",
        "BATCHING_LINGER": "100ms",
        "OTEL_TRACES_EXPORTER": "console",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "PATH": f"{bin_directory}:{os.environ['PATH']}",
    }
    # As `opentelemetry-instrument temporal-batching worker`: that command is this function.
    instrument = "from opentelemetry.instrumentation.auto_instrumentation import run; run()"
    worker = await start("python", "-c", instrument, "temporal-batching", "worker", "--log-format", "json", **here)
    await worker.says("Ctrl-C stops it")
    client = await Client.connect(temporal)
    wire = {
        "request_id": "traced-1",
        "records": [{"table": "entries", "values": {"note": "a-value"}}],
        "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01",
    }
    lines: list[dict[str, Any]] = []

    async def signalled() -> None:
        await client.get_workflow_handle("batcher-traced-0").describe()

    await assert_eventually(lambda: _without_errors(signalled), within=30)
    await client.get_workflow_handle("batcher-traced-0").signal("add_write_request", wire)

    async def told() -> None:
        lines[:] = [json.loads(line) for line in worker.lines if '"batch_id"' in line and line.startswith("{")]
        assert len(lines) == 1

    await assert_eventually(told, within=30)
    (shown,) = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]
    (line,) = lines
    assert set(line) == {*shown, "trace_id", "span_id"}
    assert (line["level"], line["outcomes"], line["shard"]) == ("info", {"written": 1}, 0)
    assert await worker.stopped_by(signal.SIGTERM) == 0, worker.output
    # Its spans wait for others, and are published when it ends.
    assert '"name": "batching.flush"' in worker.output
    assert f'"trace_id": "0x{line["trace_id"]}"' in worker.output
    assert f'"trace_id": "0x{TRACE}"' in worker.output


async def _without_errors(check: Any) -> None:
    try:
        await check()
    except Exception as err:
        raise AssertionError from err
