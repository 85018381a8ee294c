"""What is to be written, and how fast that which surrounds a batcher answers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, TypeAlias, get_args

from temporal_batching.errors import InvalidLoad
from temporal_batching.policy import BatchPolicy
from temporal_batching.sizing.costs import PARCEL_REQUEST_BYTES, RECORD_BYTES
from temporal_batching.wire.submission import ENVELOPE_BYTES
from temporal_batching.writers.parcels import PACKED_PARCEL_BYTES, PARCEL_ENVELOPE_BYTES, ParcelLimits

Via: TypeAlias = Literal["activity", "signal", "write_many"]
Gateway: TypeAlias = Literal["batcher", "local"]

MAX_RATE = 10_000_000.0
"""Writes a second: more than any batcher bears, so a mistake."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """A steady load, the same for every shard.

    Example:
        ```python
        from temporal_batching.sizing import Load

        load = Load(rate=500, record_bytes=300, gateways=4)
        ```

    Attributes:
        rate: Write requests a second, over all shards. More than 0, at most 10,000,000.
        record_bytes: Bytes of one record's values as JSON. 2 to 1,500,000.
        records: Records in one request. 1 to 10,000.
        via: How they come in: ``activity``, ``signal``, or ``write_many``, which sends full parcels.
        gateway: Where the gateway runs: on the workers of the ``batcher``, or ``local``, with `GatewayPlugin` on the
            callers' own.
        gateways: Processes that run one. 1 to 10,000.

    Raises:
        InvalidLoad: A figure out of its range.
    """

    rate: float
    record_bytes: int
    records: int = 1
    via: Via = "activity"
    gateway: Gateway = "batcher"
    gateways: int = 1

    def __post_init__(self) -> None:
        rate = self.rate
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= MAX_RATE:
            raise InvalidLoad("rate", f"{rate!r}: writes a second, more than 0 and at most {MAX_RATE:,.0f}")
        self._whole("record_bytes", 2, 1_500_000)
        self._whole("records", 1, 10_000)
        self._whole("gateways", 1, 10_000)
        self._one_of("via", get_args(Via))
        self._one_of("gateway", get_args(Gateway))

    def _whole(self, name: str, low: int, high: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InvalidLoad(name, f"{value!r}: a whole number from {low:,} to {high:,}")

    def _one_of(self, name: str, allowed: tuple[str, ...]) -> None:
        if getattr(self, name) not in allowed:
            raise InvalidLoad(name, f"{getattr(self, name)!r}: one of {', '.join(allowed)}")

    @property
    def content_bytes(self) -> int:
        """Bytes of one request's records as JSON."""
        return self.records * (RECORD_BYTES + self.record_bytes)

    @property
    def request_bytes(self) -> int:
        """Bytes of one request as the limits of a policy count them."""
        return self.content_bytes + PARCEL_REQUEST_BYTES + ENVELOPE_BYTES


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """How fast the database and Temporal answer. The defaults are those of a cluster in the same region.

    Attributes:
        database: One transaction with its commit. 0 to 10 minutes.
        call: One call of a worker to Temporal, such as a confirmation. More than 0, at most 10 seconds.
        task: One workflow task of a shard, from its cause until it is completed. More than 0, at most 10 seconds.

    Raises:
        InvalidLoad: A duration out of its range.
    """

    database: timedelta = timedelta(milliseconds=20)
    call: timedelta = timedelta(milliseconds=10)
    task: timedelta = timedelta(milliseconds=20)

    def __post_init__(self) -> None:
        for name, most in (("database", 600), ("call", 10), ("task", 10)):
            value = getattr(self, name)
            if not isinstance(value, timedelta):
                raise InvalidLoad(name, f"{value!r}: a timedelta")
            seconds = value.total_seconds()
            if not 0 <= seconds <= most or (seconds == 0 and name != "database"):
                low = "from 0" if name == "database" else "more than 0"
                raise InvalidLoad(name, f"{seconds:g} s: {low}, at most {most} seconds")


@dataclass(frozen=True, slots=True)
class Fill:
    """How a load fills submissions and batches.

    Attributes:
        requests: Requests in one submission: 1, or those of a parcel.
        size: Bytes of one submission as the limits count them.
        batch: Submissions in a full batch.
    """

    requests: int
    size: int
    batch: int


def fill_of(load: Load, policy: BatchPolicy) -> Fill:
    """How full submissions and batches can be.

    Raises:
        InvalidLoad: No batch can hold one request.
    """
    for name, count, most in (
        ("records", load.records, policy.max_batch_records),
        ("record_bytes", load.request_bytes, policy.max_batch_bytes),
    ):
        if count > most:
            what = "records" if name == "records" else "bytes in all"
            raise InvalidLoad(name, f"a request has {count:,} {what}, and a batch holds {most:,}")
    requests, size = 1, load.request_bytes
    if load.via == "write_many":
        limits = ParcelLimits.of(policy, size=PACKED_PARCEL_BYTES)
        each = load.content_bytes + PARCEL_REQUEST_BYTES
        by_size = (limits.size - PARCEL_ENVELOPE_BYTES) // each
        requests = max(1, min(limits.requests, limits.records // load.records, by_size))
        size = PARCEL_ENVELOPE_BYTES + requests * each
    batch = min(
        policy.max_batch_size // requests,
        policy.max_batch_records // (requests * load.records),
        policy.max_batch_bytes // size,
    )
    return Fill(requests, size, max(1, math.floor(batch)))
