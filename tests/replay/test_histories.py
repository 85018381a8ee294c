"""Today's workflows go on where those of every release stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
from temporalio import workflow
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer

from temporal_batching import BatcherPlugin, MemorySink
from tests.support.callers import CALLERS

HISTORIES = sorted((Path(__file__).parent / "histories").glob("*/*.json"))


def read(path: Path) -> WorkflowHistory:
    return WorkflowHistory.from_json(path.stem, path.read_text())


async def replay(history: WorkflowHistory) -> None:
    await Replayer(workflows=CALLERS, plugins=[BatcherPlugin(MemorySink())]).replay_workflow(history)


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: f"{path.parent.name}/{path.stem}")
async def test_a_stored_history_replays(path: Path) -> None:
    await replay(read(path))


@pytest.mark.xfail(
    strict=True,
    reason="https://github.com/temporalio/sdk-python/issues/1591: a worker without the run in its cache handles the "
    "signals of a task before it is given the task's updates, and a replay handles both together",
)
async def test_a_task_with_signals_and_updates_that_a_new_worker_took_replays() -> None:
    """Found by random kills: the timer that the signals need stands before the updates, and a replay swaps them."""
    await replay(read(Path(__file__).parent / "cold_start" / "signals-and-updates-batcher.json"))


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
    assert "continuing-batcher-1" in names
