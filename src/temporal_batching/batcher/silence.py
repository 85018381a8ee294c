"""What a query of a shard raises when there is no answer that can be read."""

from __future__ import annotations

from datetime import timedelta

from temporalio.client import WorkflowQueryFailedError, WorkflowQueryRejectedError
from temporalio.service import RPCError

from temporal_batching.errors import BatcherNotRunning

ANSWER_TIMEOUT = timedelta(seconds=6)
"""How long a shard may take to answer. Longer than a worker needs to replay one."""

UNREADABLE: tuple[type[Exception], ...] = (RuntimeError, KeyError, TypeError, ValueError)
"""What the SDK and data converters raise of a payload: the batcher has another data converter than the client."""


class ShardNotThere(BatcherNotRunning):
    """The shard's workflow was never started, or has ended: one that is started counts from 0."""


NO_ANSWER: tuple[type[Exception], ...] = (
    BatcherNotRunning,
    TimeoutError,
    RPCError,
    WorkflowQueryFailedError,
    WorkflowQueryRejectedError,
    *UNREADABLE,
)
