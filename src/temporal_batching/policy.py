"""`BatchPolicy`: when a batch is full, how much may wait, and how long. Every limit has a range and a reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any

from temporal_batching.errors import InvalidPolicy

MAX_REQUEST_BYTES = 1_500_000
"""No batch, so no request, may pass this: Temporal refuses a payload of 2 MiB, and the envelope needs room."""

CARRY_LIMIT_BYTES = 1_048_576
"""What a batcher may carry over continue-as-new: the new run's input is one payload, and its history starts with it."""

MAX_MESSAGE_RETURNED = 1_048_576
"""Bytes of returned values in one message: half of what Temporal lets a payload have."""

CONFIRMATION_TIMEOUT = timedelta(minutes=2)
"""The default of a caller's wait for its confirmation, and of the deadline of a request that brings none."""


@dataclass(frozen=True, kw_only=True)
class BatchPolicy:
    """The limits of one batcher shard. Durations are `timedelta`; on the wire they are seconds.

    Example:
        ```python
        from datetime import timedelta

        from temporal_batching import BatchPolicy

        bulk = BatchPolicy(max_batch_size=1000, linger=timedelta(seconds=30))
        group_commit = BatchPolicy(linger=timedelta(0))
        ```

    Attributes:
        max_batch_size: Requests in one batch. A full batch is flushed immediately. 1 to 10,000.
        max_batch_records: Records in one batch, and in one request: the second cap, for requests of many rows. A
            batch is full when it reaches either. 1 to 10,000.
        linger: The longest a request waits for a fuller batch, counted from the oldest request's arrival. Zero is
            group commit: an idle shard flushes immediately, and what arrives during a flush forms the next batch.
            0 to 1 hour.
        max_batch_bytes: Bytes of one batch as it travels. 1 KiB to 1,500,000.
        max_pending: Requests that may wait in the buffer. 1 to 100,000.
        max_pending_bytes: Bytes that may wait in the buffer. Not less than ``max_batch_bytes``, at most 64 MiB.
        max_in_flight: Batches of one shard that may be flushed at the same time. Requests of one key
            keep their order: the next batch leaves out what shares a key with a batch that is not settled. A batch that
            is not full waits for those in flight, for up to a second. 1 to 16.
        confirmation_timeout: The deadline of a request that brings none of its own. 1 second to 1 day.
        flush_timeout: The longest one flush may take before its fate counts as unknown. 1 second to 10 minutes.
        retry_initial: The breaker's first pause after a sink was unavailable, and that of a request which the sink
            wants to be retried; doubled each time. 10 ms to 1 minute.
        retry_max: The longest of these pauses. Not less than ``retry_initial``, at most 10 minutes.
        deadline_margin: A batch is flushed this long before the earliest deadline in it, though it is not full.
            0 to 1 minute.
    """

    max_batch_size: int = 100
    max_batch_records: int = 1_000
    linger: timedelta = timedelta(seconds=20)
    max_batch_bytes: int = 1_048_576
    max_pending: int = 10_000
    max_pending_bytes: int = 8 * 1_048_576
    max_in_flight: int = 4
    confirmation_timeout: timedelta = CONFIRMATION_TIMEOUT
    flush_timeout: timedelta = timedelta(seconds=30)
    retry_initial: timedelta = timedelta(seconds=1)
    retry_max: timedelta = timedelta(seconds=30)
    deadline_margin: timedelta = timedelta(seconds=2)

    def __post_init__(self) -> None:
        self._whole("max_batch_size", 1, 10_000)
        self._whole("max_batch_records", 1, 10_000)
        self._seconds("linger", 0, 3600)
        self._whole("max_batch_bytes", 1024, MAX_REQUEST_BYTES)
        self._whole("max_pending", 1, 100_000)
        self._whole("max_pending_bytes", self.max_batch_bytes, 64 * 1_048_576)
        self._whole("max_in_flight", 1, 16)
        self._seconds("confirmation_timeout", 1, 86_400)
        self._seconds("flush_timeout", 1, 600)
        self._seconds("retry_initial", 0.01, 60)
        self._seconds("retry_max", self.retry_initial.total_seconds(), 600)
        self._seconds("deadline_margin", 0, 60)

    def _whole(self, name: str, low: int, high: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise InvalidPolicy(f"{name} {value!r}: a whole number from {low:,} to {high:,}")

    def _seconds(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if not isinstance(value, timedelta):
            raise InvalidPolicy(f"{name} {value!r}: a timedelta")
        if not low <= value.total_seconds() <= high:
            raise InvalidPolicy(f"{name} {value.total_seconds():g} s: from {low:g} to {high:g} seconds")

    def to_wire(self) -> dict[str, int | float]:
        """The policy as JSON: durations become seconds."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: v.total_seconds() if isinstance(v, timedelta) else v for name, v in values.items()}

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> BatchPolicy:
        """Reads `to_wire`. Names that are missing keep their defaults; unknown names and bad values raise.

        Raises:
            InvalidPolicy: With the name, the value and what is allowed.
        """
        if not isinstance(wire, Mapping):
            raise InvalidPolicy(f"a policy is an object of limits, not {type(wire).__name__}")
        defaults = {f.name: f.default for f in fields(cls)}
        unknown = sorted(set(wire) - set(defaults))
        if unknown:
            raise InvalidPolicy(f"unknown limits {unknown}: the limits are {sorted(defaults)}")
        values: dict[str, Any] = {}
        for name, value in wire.items():
            if isinstance(defaults[name], timedelta):
                if not isinstance(value, int | float) or isinstance(value, bool):
                    raise InvalidPolicy(f"{name} {value!r}: a number of seconds")
                try:
                    value = timedelta(seconds=value)
                except (OverflowError, ValueError) as err:
                    raise InvalidPolicy(f"{name} {value!r}: a number of seconds ({err})") from None
            values[name] = value
        return cls(**values)
