"""Today's workflows go on where those of every release stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
from temporalio import workflow
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer

from temporal_batching import BatcherPlugin, MemorySink
from tests.support.callers import EVERY_WAY_IN
from tests.support.service import WORKFLOWS

HISTORIES = sorted((Path(__file__).parent / "histories").glob("*/*.json"))


def read(path: Path) -> WorkflowHistory:
    return WorkflowHistory.from_json(path.stem, path.read_text())


async def replay(history: WorkflowHistory) -> None:
    await Replayer(workflows=WORKFLOWS, plugins=[BatcherPlugin(MemorySink())]).replay_workflow(history)


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: f"{path.parent.name}/{path.stem}")
async def test_a_stored_history_replays(path: Path) -> None:
    await replay(read(path))


async def test_a_history_that_does_not_fit_is_noticed() -> None:
    """Or the test above would prove nothing."""
    path = next(path for path in HISTORIES if path.stem == "activity-batcher")
    changed = WorkflowHistory.from_json("changed", read(path).to_json().replace('"flush_batch"', '"another_activity"'))
    with pytest.raises(workflow.NondeterminismError):
        await replay(changed)


def test_there_are_histories_of_every_shape() -> None:
    names = {path.stem for path in HISTORIES}
    for shape in ("activity", "signal", "sink-down", "answers", "operating", "late-policy", "parcels", "continuing"):
        assert f"{shape}-batcher" in names
    assert {"continuing-batcher-1", "versions-batcher-1"} <= names
    assert {"many-caller", "many-batcher", "withdrawn-many-caller"} <= names
    assert {f"{way}-caller" for way in EVERY_WAY_IN} | {f"withdrawn-{way}-caller" for way in EVERY_WAY_IN} <= names
