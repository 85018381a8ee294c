"""Whether an activity has reached the batcher that it is meant for."""

from __future__ import annotations

from temporalio import activity
from temporalio.exceptions import ApplicationError

from temporal_batching.errors import ErrorType


def check_batcher(meant: object, own: str) -> None:
    """Refuses an activity that is meant for another batcher. One that names none is accepted by any batcher.

    Two batchers on one task queue take each other's activities. Such an attempt fails before it does anything, so that
    another attempt may find the right worker; it is logged as an error, because the deployment is misconfigured.

    Raises:
        ApplicationError: Of type ``WrongBatcher``, retryable.
    """
    if meant is None or meant == own:
        return
    info = activity.info()
    message = (
        f"this worker serves the batcher {own!r}, and {info.activity_type} is meant for {str(meant)[:80]!r}: two "
        f"batchers share the task queue {info.task_queue!r}; give each its own"
    )
    activity.logger.error("%s", message)
    raise ApplicationError(message, type=ErrorType.WRONG_BATCHER)
