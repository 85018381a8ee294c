"""How long a write waits, and how its activity is repeated: the same from a workflow and from a program."""

from __future__ import annotations

from datetime import timedelta
from typing import TypedDict

from temporalio.common import RetryPolicy

from temporal_batching.errors import InvalidRequest

ATTEMPT_TIMEOUT = timedelta(seconds=30)
"""How long one attempt to submit a write may go unanswered. Longer than the default linger, or a request that waits
for its batch would be submitted twice: harmless, but not free."""


class ActivityTimes(TypedDict):
    """Options of the activity ``batch_write``."""

    schedule_to_close_timeout: timedelta
    schedule_to_start_timeout: timedelta
    start_to_close_timeout: timedelta
    retry_policy: RetryPolicy


def activity_times(timeout: timedelta, attempt_timeout: timedelta) -> ActivityTimes:
    """The activity's options where a write waits this long, and an attempt this long."""
    return {
        "schedule_to_close_timeout": timeout,
        "schedule_to_start_timeout": timeout,
        "start_to_close_timeout": min(timeout, attempt_timeout),
        "retry_policy": RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=10)),
    }


def check_timeout(timeout: timedelta) -> None:
    if not timedelta(0) < timeout:
        raise InvalidRequest(f"timeout {timeout}: more than zero")
