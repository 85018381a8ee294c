"""A shard that hands over to its next run counts as running."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowHandle, WorkflowQueryRejectedError

from temporal_batching.batcher.current_run import describe_current, stats_of_current
from temporal_batching.contract import BatcherStats

RUNNING = WorkflowExecutionStatus.RUNNING
CONTINUED = WorkflowExecutionStatus.CONTINUED_AS_NEW

STATS = BatcherStats(batcher="main", shard=0)


@dataclass
class Described:
    status: WorkflowExecutionStatus


class Shard:
    """Is found in each of these statuses in turn, and in the last one from then on."""

    def __init__(self, *statuses: WorkflowExecutionStatus) -> None:
        self._statuses = list(statuses)
        self.asked = 0

    def _status(self) -> WorkflowExecutionStatus:
        self.asked += 1
        return self._statuses.pop(0) if len(self._statuses) > 1 else self._statuses[0]

    async def describe(self, **options: Any) -> Described:
        return Described(self._status())

    async def query(self, name: str, **options: Any) -> BatcherStats:
        if (status := self._status()) is not RUNNING:
            raise WorkflowQueryRejectedError(status)
        return STATS


def handle(shard: Shard) -> WorkflowHandle[Any, Any]:
    return cast("WorkflowHandle[Any, Any]", shard)


async def test_a_question_that_meets_a_run_at_its_end_is_asked_of_the_next_one() -> None:
    assert await stats_of_current(handle(Shard(CONTINUED, CONTINUED, RUNNING))) is STATS
    assert (await describe_current(handle(Shard(CONTINUED, CONTINUED, RUNNING)))).status is RUNNING


async def test_a_shard_that_has_ended_is_asked_once() -> None:
    for status in (WorkflowExecutionStatus.TERMINATED, WorkflowExecutionStatus.COMPLETED):
        shard = Shard(status)
        with pytest.raises(WorkflowQueryRejectedError):
            await stats_of_current(handle(shard))
        assert shard.asked == 1
        assert (await describe_current(handle(shard))).status is status


async def test_a_run_without_a_successor_is_not_asked_for_ever() -> None:
    with pytest.raises(WorkflowQueryRejectedError):
        await stats_of_current(handle(Shard(CONTINUED)))
    assert (await describe_current(handle(Shard(CONTINUED)))).status is CONTINUED
