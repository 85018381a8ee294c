"""What has happened to a batcher between two looks at it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from temporal_batching.batcher.handle import BatcherHandle
from temporal_batching.contract import BatcherStats
from temporal_batching.monitoring.reading import NoAnswer, read_stats
from temporal_batching.terminal import printable


@dataclass(frozen=True)
class Look:
    """The shards at one moment, and a line for each thing that has happened since the look before."""

    stats: Sequence[BatcherStats]
    events: Sequence[str]


class Watch:
    """Compares each look with the one before."""

    def __init__(self, batcher: BatcherHandle) -> None:
        self._batcher = batcher
        self._known: dict[int, BatcherStats] = {}
        self._silent = ""

    @property
    def stats(self) -> list[BatcherStats]:
        """Every shard as it was when it last answered."""
        return [self._known[shard] for shard in sorted(self._known)]

    async def look(self) -> Look:
        try:
            stats = await read_stats(self._batcher)
        except NoAnswer as err:
            # Stated once: a batcher without worker is a state, not a stream of news.
            repeated, self._silent = self._silent == str(err), str(err)
            return Look([], [] if repeated else [f"{clock()} {err}"])
        events = [f"{clock()} the batcher answers again"] if self._silent else []
        self._silent = ""
        for shard in stats:
            events += [f"{clock()} {shard.batcher}-{shard.shard} {event}" for event in self._news(shard)]
            self._known[shard.shard] = shard
        return Look(stats, events)

    def _news(self, now: BatcherStats) -> list[str]:
        before = self._known.get(now.shard)
        return [f"found: run {now.run_id[:8]}"] if before is None else changes(before, now)


def changes(before: BatcherStats, now: BatcherStats) -> list[str]:
    """What has happened to a shard, a line each."""
    news = []
    if now.run_id != before.run_id:
        if now.continue_as_new > before.continue_as_new:
            cycles = now.continue_as_new - before.continue_as_new
            times = "" if cycles == 1 else f" {cycles} times"
            runs = f"run {before.run_id[:8]} -> {now.run_id[:8]}"
            news.append(f"continued as new{times}: {runs} (cycle {now.continue_as_new}, {now.pending} pending)")
        else:
            news.append(f"was started again: run {now.run_id[:8]}")
    if now.breaker != before.breaker:
        because = f": {printable(now.sink_error)}" if now.sink_error else ""
        news.append(f"sink {'unavailable' if now.breaker != 'closed' else 'available again'}{because}")
    if now.suggested and not before.suggested:
        news.append("Temporal suggests to continue as new")
    if (now.paused, now.draining) != (before.paused, before.draining):
        news.append(f"is {state(now)}")
    return news


def state(shard: BatcherStats) -> str:
    """What a shard does, in a word or two."""
    words = ["sink down"] if shard.breaker != "closed" else []
    words += [word for word, on in (("draining", shard.draining), ("paused", shard.paused)) if on]
    return ", ".join(words) or ("flushing" if shard.in_flight else "gathering" if shard.pending else "idle")


def clock() -> str:
    return datetime.now().strftime("%H:%M:%S")
