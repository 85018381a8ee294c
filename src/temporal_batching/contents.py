"""Where the content of parcels lies: in the input of their activities, and in the process that took them in."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from temporalio.client import Client
from temporalio.common import RawValue
from temporalio.service import RPCError, RPCStatusCode

from temporal_batching.wire.decoding import decode_payload
from temporal_batching.wire.parcels import ParcelSource

MAX_BYTES = 32 * 1_048_576
"""Of all contents together: four times what a shard lets wait by default, which packed is far more than it sounds."""

MAX_AGE = timedelta(minutes=2)
"""What another worker flushed, or a shard keeps for longer, is not kept here: its flush can read it from Temporal."""


READ_TIMEOUT = timedelta(seconds=10)
"""The longest that reading one parcel from Temporal may take."""


class ContentStore:
    """Keeps packed parcels by their digest, for flushes in the same process. It may lose any of them at any time.

    Args:
        max_bytes: Of all contents; the oldest go first.
        max_age: After which one goes.
        clock: Tells the time, in seconds.

    Attributes:
        bytes: What it holds.
    """

    def __init__(
        self,
        *,
        max_bytes: int = MAX_BYTES,
        max_age: timedelta = MAX_AGE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.bytes = 0
        self._max_bytes = max_bytes
        self._max_age = max_age.total_seconds()
        self._clock = clock
        self._contents: OrderedDict[str, tuple[float, str]] = OrderedDict()  # oldest first
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._contents)

    def put(self, digest: str, packed: str) -> None:
        """Keeps a content, if there is room for it at all."""
        self.discard(digest)
        if len(packed) > self._max_bytes:
            return
        self._contents[digest] = (self._clock(), packed)
        self.bytes += len(packed)
        while self.bytes > self._max_bytes:
            self.discard(next(iter(self._contents)))
        self._set_timer()

    def get(self, digest: str) -> str | None:
        """A content; None if it is not here, or not any more."""
        _, packed = self._contents.get(digest, (0.0, None))
        return packed

    def discard(self, digest: str) -> None:
        """Lets a content go."""
        _, packed = self._contents.pop(digest, (0.0, ""))
        self.bytes -= len(packed)

    def sweep(self) -> None:
        """Lets go what is too old."""
        oldest = self._clock() - self._max_age
        while self._contents:
            digest, (since, _) = next(iter(self._contents.items()))
            if since > oldest:
                break
            self.discard(digest)

    def _set_timer(self) -> None:
        """A process that flushes nothing has nobody else to call `sweep`."""
        if self._timer is None and self._contents:
            self._timer = asyncio.get_running_loop().call_later(self._max_age / 2, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self.sweep()
        self._set_timer()


@dataclass(frozen=True, slots=True)
class Missing:
    """A parcel whose content the flush does not have.

    Attributes:
        reason: Why, for people who operate the batcher.
        gone: Nobody will ever have it: the activity in whose input it lay was deleted.
    """

    reason: str
    gone: bool = False


async def read_parcel_of(client: Client, source: ParcelSource) -> str | Missing:
    """Reads the packed parcel in the input of an activity, which may have ended in any way.

    What is there but no packed parcel is an empty string: it is not what was announced.
    """
    handle = client.get_activity_handle(source.activity_id, run_id=source.run_id)
    try:
        described = await handle.describe(include_input=True, rpc_timeout=READ_TIMEOUT)
    except RPCError as err:
        if err.status == RPCStatusCode.NOT_FOUND:
            return Missing("the activity in whose input it was has been deleted", gone=True)
        return Missing(f"it could not be read from Temporal: {err.status.name}")
    try:
        values = await described.input([RawValue])
        wire = decode_payload(values[0].payload, client.data_converter.payload_converter) if values else None
    except Exception as err:  # a codec may raise anything; another worker may have the right one
        return Missing(f"this worker cannot decode it: {type(err).__name__}")
    if not values:
        return Missing("Temporal did not return the input of its activity")
    packed = wire.get("packed") if isinstance(wire, Mapping) else None
    return packed if isinstance(packed, str) else ""
