"""The guide to updates, deletes and counters runs as it stands."""

from __future__ import annotations

import importlib
import sys
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from temporalio.client import Client
from temporalio.worker import Worker
from tests.acceptance.test_documents import blocks
from tests.support.databases import TestDatabase

from temporal_batching import BatcherPlugin, BatchPolicy, SqlSink
from temporal_batching.routing import default_task_queue

pytestmark = pytest.mark.documents

PAGE = "docs/how-to/update-and-count.md"


async def test_the_guide_updates_its_order_and_counts(
    client: Client, sqlite: TestDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules, source = blocks(PAGE, "python")
    name = f"count-{uuid4().hex[:8]}"
    (tmp_path / "guide_count.py").write_text(source.replace('"main"', f'"{name}"'), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "guide_count", raising=False)
    workflow = importlib.import_module("guide_count").Pay
    scope: dict[str, SqlSink] = {}
    exec(rules.replace("sqlite:///app.db", sqlite.url), scope)
    sqlite.execute("CREATE TABLE orders (id integer PRIMARY KEY, state text)")
    sqlite.execute("CREATE TABLE balances (account text PRIMARY KEY, amount numeric)")
    sqlite.execute("INSERT INTO orders VALUES (1, 'new'), (2, 'new')")
    plugin = BatcherPlugin(scope["sink"], name=name, policy=BatchPolicy(linger=timedelta(0)))
    async with (
        Worker(client, task_queue=default_task_queue(name), plugins=[plugin]),
        Worker(client, task_queue=name, workflows=[workflow]),
    ):
        totals = [
            await client.execute_workflow(
                workflow.run,
                args=[order, "a-1", amount],
                id=f"{name}-{order}",
                task_queue=name,
                execution_timeout=timedelta(seconds=60),
            )
            for order, amount in ((1, "9.50"), (2, "0.70"))
        ]
    assert totals == ["9.5", "10.2"]
    assert sqlite.rows("SELECT state FROM orders") == [("paid",), ("paid",)]
