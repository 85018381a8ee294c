"""What a shard accepts: a request has to fit one batch, and the buffer needs room for it."""

from __future__ import annotations

from temporal_batching.contract import RejectCode
from temporal_batching.errors import InvalidRequest
from temporal_batching.policy import BatchPolicy
from temporal_batching.wire.submission import Submission


class BufferFull(Exception):
    """No room, or draining. The update rejects its sender as busy; a signal is answered `overloaded`."""


def check_fits_batch(submission: Submission, policy: BatchPolicy) -> None:
    """Refuses what no batch can hold.

    Raises:
        InvalidRequest: With the limit that it exceeds.
    """
    for noun, what, count, most in (
        ("parcel", "requests", submission.requests, policy.max_batch_size),
        ("request", "records", submission.records, policy.max_batch_records),
        ("request", "bytes", submission.untraced_size, policy.max_batch_bytes),
    ):
        if count > most:
            raise InvalidRequest(f"the {noun} has {count:,} {what}: at most {most:,} fit a batch", RejectCode.TOO_LARGE)


def check_room(policy: BatchPolicy, *, pending: tuple[int, int], more: tuple[int, int]) -> None:
    """Refuses what the buffer has no room for.

    Args:
        policy: The limits in force.
        pending: Requests and bytes that wait.
        more: Requests and bytes to be added. What adds none of one kind is not refused for it.

    Raises:
        BufferFull: With the limit that would be exceeded.
    """
    (requests, size), (more_requests, more_size) = pending, more
    if more_requests and requests + more_requests > policy.max_pending:
        raise BufferFull(f"{requests:,} requests are waiting, of {policy.max_pending:,} allowed")
    if more_size and size + more_size > policy.max_pending_bytes:
        raise BufferFull(f"{size:,} bytes are waiting, of {policy.max_pending_bytes:,} allowed")
