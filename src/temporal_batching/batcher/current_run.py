"""Asks the current run of a shard, also at the moment at which one run hands over to the next.

Temporal looks up the current run of a workflow id first and asks it then. A run that continues as new between the two
answers as one that has ended, though the shard runs.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from temporalio.client import (
    WorkflowExecutionDescription,
    WorkflowExecutionStatus,
    WorkflowHandle,
    WorkflowQueryRejectedError,
)
from temporalio.common import QueryRejectCondition

from temporal_batching.contract import QUERY_STATS, BatcherStats

_PAUSES = (0.0, 0.02, 0.1, 0.5)
"""Seconds before each further attempt: the next run is there as soon as the last one has ended."""


async def describe_current(
    shard: WorkflowHandle[Any, Any], *, timeout: timedelta | None = None
) -> WorkflowExecutionDescription:
    """Describes the current run.

    Args:
        shard: A handle without a run id.
        timeout: Of each call.

    Raises:
        RPCError: Temporal does not answer, or knows no such workflow.
    """
    for pause in _PAUSES:
        described = await shard.describe(rpc_timeout=timeout)
        if described.status is not WorkflowExecutionStatus.CONTINUED_AS_NEW:
            return described
        await asyncio.sleep(pause)
    return await shard.describe(rpc_timeout=timeout)


async def stats_of_current(shard: WorkflowHandle[Any, Any]) -> BatcherStats:
    """Returns the figures of the current run.

    Args:
        shard: A handle without a run id.

    Raises:
        WorkflowQueryRejectedError: The workflow has ended. Temporal would have a worker answer for it as well: as it
            was at its end.
        RPCError: Temporal or the worker does not answer, or there is no such workflow.
    """
    for pause in _PAUSES:
        try:
            return await _stats(shard)
        except WorkflowQueryRejectedError as err:
            if err.status is not WorkflowExecutionStatus.CONTINUED_AS_NEW:
                raise
        await asyncio.sleep(pause)
    return await _stats(shard)


async def _stats(shard: WorkflowHandle[Any, Any]) -> BatcherStats:
    stats: BatcherStats = await shard.query(
        QUERY_STATS, result_type=BatcherStats, reject_condition=QueryRejectCondition.NOT_OPEN
    )
    return stats
