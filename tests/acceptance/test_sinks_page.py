"""The sinks of docs/how-to/write-a-sink.md keep the promises that the page lists."""

from __future__ import annotations

import asyncio
import importlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.conftest import ROOT

from temporal_batching import Record
from temporal_batching.testing import SinkPromise, check_sink
from temporal_batching.testing.sink_promises import CHECKS

PAGE = (ROOT / "docs/how-to/write-a-sink.md").read_text(encoding="utf-8")
DUCK, DUCK_TEST, BULK = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_page_lists_every_promise() -> None:
    listed = {name: (text, needs) for name, text, needs in re.findall(r"^\| `([^`]+)` \| (.*) \| (.*)\|$", PAGE, re.M)}
    for promise, check in CHECKS.items():
        text, needs = listed[promise]
        assert text == check.text
        assert re.findall(r"`(\w+)`", needs) == list(check.needs)


def test_the_duckdb_sink_passes_its_test_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "duck_sink.py").write_text(DUCK, encoding="utf-8")
    (tmp_path / "test_duck_sink.py").write_text(DUCK_TEST, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    # Skipped: what needs an outage, a busy record, and dead letters are not kept.
    needed = sum(bool({"outage", "busy"} & set(check.needs)) for check in CHECKS.values())
    assert f"{len(SinkPromise) - needed} passed, {needed} skipped" in done.stdout, done.stdout + done.stderr


# The API of the page


class Api:
    """A bulk API as the page describes it: it remembers an idempotency key with what it did the first time."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, str]] = []
        self.away = False
        self._done: dict[str, tuple[str, dict[str, Any]]] = {}
        self._lock = threading.Lock()

    def bulk(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        with self._lock:
            held: set[str] = set()
            return [self._one(item, held) for item in items]

    def _one(self, item: dict[str, Any], held: set[str]) -> dict[str, Any]:
        rows = json.dumps(item["rows"], sort_keys=True)
        if item["idempotency_key"] in self._done:
            first, answer = self._done[item["idempotency_key"]]
            return answer if rows == first else {"status": 409}
        texts = [row.get("text") for row in item["rows"]]
        if item["group"] in held or "busy" in texts:
            held.add(item["group"])
            return {"status": 429, "error": "too many of these at the moment"}
        if not all(isinstance(text, str) for text in texts):
            return {"status": 422, "error": "text must be a string"}
        self.rows += [(row.get("number", -1), row["text"]) for row in item["rows"]]
        answer = {"status": 201, "batch": item["batch"]}
        self._done[item["idempotency_key"]] = (rows, answer)
        return answer

    @contextmanager
    def outage(self) -> Iterator[None]:
        self.away = True
        yield
        self.away = False


@asynccontextmanager
async def serving(api: Api) -> AsyncIterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status = 503 if api.away else 200
            body = json.dumps({} if api.away else {"items": api.bulk(asked["items"])}).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

        def handle(self) -> None:
            try:
                super().handle()
            except ConnectionError:  # a cancelled call hangs up
                self.close_connection = True

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            await asyncio.to_thread(server.shutdown)
            thread.join()


@pytest.mark.parametrize("promise", SinkPromise)
async def test_the_bulk_api_sink_keeps(promise: SinkPromise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bulk_api_sink.py").write_text(BULK, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "bulk_api_sink", raising=False)
    sink: Any = importlib.import_module("bulk_api_sink").BulkApiSink
    api = Api()

    def record(text: str | None) -> Any:
        return lambda number, _: Record("check_sink", {"number": number, "text": text})

    async with serving(api) as url:
        await check_sink(
            lambda: sink(url),
            promise,
            rows=lambda: api.rows,
            bad=record(None),
            busy=record("busy"),
            outage=api.outage,
            fences=False,
        )
