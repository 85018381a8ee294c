"""The moment at which every payment's write is with the batcher: the demo has nothing more to wait for."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import timedelta

from temporalio.client import Client
from temporalio.service import RPCError

from temporal_batching.cli.console import out
from temporal_batching.cli.monitor import handle_for, read_stats
from temporal_batching.errors import BatchingError
from temporal_batching.monitoring import NoAnswer
from temporal_batching.settings import BatcherSettings

MAX_HOLD = timedelta(seconds=60)
"""Writes are held back at most this long, and half the confirmation timeout: one that is held can still expire."""

_CONTROL_TIMEOUT = timedelta(seconds=5)


class Handover:
    """Watches the writes come in, and lets them go to the database once they are all there.

    Args:
        client: Where the batcher runs.
        settings: Its settings.
        expected: How many writes will come.
        hold: Whether the batcher writes none of them before. Without, it writes what its policy says meanwhile, and
            only what is left at the end is flushed.
    """

    def __init__(self, client: Client, settings: BatcherSettings, *, expected: int, hold: bool) -> None:
        self._client = client
        self._settings = settings
        self._batcher = handle_for(client, settings)
        self._expected = expected
        self._hold = hold
        self._until = 0.0

    async def begin(self) -> None:
        """To be called before the first write."""
        if self._hold:
            await self._batcher.pause()
            longest = min(MAX_HOLD, self._settings.confirmation_timeout / 2)
            self._until = time.monotonic() + longest.total_seconds()
            out.print("Held back until the batcher has them all; --no-hold has it write as they come.")

    async def look(self) -> None:
        """To be called every moment."""
        try:
            stats = await read_stats(self._client, self._settings)
        except NoAnswer:
            return  # busy; a linger ends without us, and a hold is asked for again
        waiting = sum(shard.pending + shard.in_flight for shard in stats)
        settled = sum(sum(shard.outcomes.values()) for shard in stats)
        complete = waiting > 0 and waiting + settled >= self._expected
        if self._hold:
            # A buffer half full is released as well: a full one would refuse writes by signal.
            full = any(shard.pending >= self._settings.max_pending / 2 for shard in stats)
            if complete or full or time.monotonic() > self._until:
                with suppress(TimeoutError, RPCError, BatchingError):  # retried at the next check
                    await self._batcher.resume()
                    self._hold = False
        elif complete:
            # Only to save time: if it fails, the linger does the same a little later.
            with suppress(TimeoutError, RPCError, BatchingError):
                await self._batcher.flush(timeout=_CONTROL_TIMEOUT)
