"""The guide to writing many rows at once runs as it stands."""

from __future__ import annotations

import importlib
import sys
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from temporalio.client import Client
from temporalio.worker import Worker
from tests.acceptance.test_guides import block

from temporal_batching import WriteRequest
from temporal_batching.testing import running_batcher

pytestmark = pytest.mark.documents


async def test_the_import_reports_what_was_not_written(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = block("write-many.md", "python")
    name = f"import-{uuid4().hex[:8]}"
    assert source.count('"main"') == 1
    (tmp_path / "guide_import.py").write_text(source.replace('"main"', f'"{name}"'), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "guide_import", raising=False)
    workflow = importlib.import_module("guide_import").Import

    def reject(request: WriteRequest) -> str | None:
        return "the account is closed" if request.key == "a-7" else None

    amounts = {f"a-{number}": "1.00" for number in range(250)}
    async with (
        running_batcher(client, name=name, reject=reject) as batcher,
        Worker(client, task_queue=name, workflows=[workflow]),
    ):
        failed = await client.execute_workflow(
            workflow.run, args=[name, amounts], id=name, task_queue=name, execution_timeout=timedelta(seconds=60)
        )
        assert failed == ["a-7: rejected: the account is closed"]
        assert len(batcher.rows["entries"]) == 249
