"""Watching a batcher: every shard's figures, and a line whenever a shard continues as new or its sink fails."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Sequence
from datetime import datetime, timedelta

from rich.live import Live
from rich.markup import escape
from rich.table import Table
from temporalio.client import Client
from temporalio.service import RPCError

from temporal_batching import BatcherHandle
from temporal_batching.cli.connect import unreadable
from temporal_batching.cli.console import CommandError, out, printable
from temporal_batching.contract import BatcherStats, OutcomeKind
from temporal_batching.errors import BatcherNotRunning
from temporal_batching.settings import BatcherSettings

STATS_SECONDS = 6.0
_ADVICE = "Start one: `python batcher-service/worker.py`, or `temporal-batching worker`."


class NoAnswer(CommandError):
    """The batcher does not answer: no worker, or no such workflow."""


def handle_for(client: Client, settings: BatcherSettings) -> BatcherHandle:
    return BatcherHandle(client, settings.name, shards=settings.shards, task_queue=settings.task_queue)


async def read_stats(client: Client, settings: BatcherSettings) -> list[BatcherStats]:
    """Asks every shard.

    Raises:
        NoAnswer: With what is missing and how to start it.
    """
    try:
        async with asyncio.timeout(STATS_SECONDS):
            return await handle_for(client, settings).stats()
    except BatcherNotRunning as err:
        raise NoAnswer(f"{err}. {_ADVICE}") from None
    except TimeoutError:
        raise NoAnswer(
            f"no worker answers for batcher '{settings.name}' on task queue '{settings.task_queue}'. {_ADVICE}"
        ) from None
    except (RuntimeError, KeyError, TypeError, ValueError):  # what the SDK and converters raise of a foreign payload
        raise unreadable(settings) from None
    except RPCError as err:
        raise NoAnswer(f"batcher '{settings.name}' cannot be asked: {err.message}") from None


async def monitor(client: Client, settings: BatcherSettings, *, interval: timedelta, once: bool) -> int:
    """Shows the figures until it is cancelled, or once."""
    if once:
        show(await read_stats(client, settings))
        return 0
    watch = _Watch(settings)
    try:
        if out.is_terminal:
            await _live(client, settings, watch, interval)
        else:
            await _lines(client, settings, watch, interval)
    except asyncio.CancelledError:
        return 0
    return 0


def as_json(stats: Sequence[BatcherStats]) -> str:
    return json.dumps([dataclasses.asdict(shard) for shard in stats])


def show(stats: Sequence[BatcherStats]) -> None:
    """Prints the figures: a table for a terminal, a line for each shard otherwise."""
    if out.is_terminal:
        out.print(table(stats, width=out.width))
    else:
        out.print("\n".join(map(plain, stats)), markup=False)


async def _live(client: Client, settings: BatcherSettings, watch: _Watch, interval: timedelta) -> None:
    with Live(console=out, auto_refresh=False) as live:
        while True:
            for line in (await watch.look(client)).events:
                live.console.print(escape(line))
            live.update(table(watch.stats, width=out.width) if watch.stats else "", refresh=True)
            await asyncio.sleep(interval.total_seconds())


async def _lines(client: Client, settings: BatcherSettings, watch: _Watch, interval: timedelta) -> None:
    shown: dict[int, str] = {}
    while True:
        look = await watch.look(client)
        for line in look.events:
            out.print(escape(line))
        for shard in look.stats:
            # Whatever ages by itself is no change worth a line.
            line = plain(dataclasses.replace(shard, oldest_pending_seconds=0.0))
            if shown.get(shard.shard) != line:
                shown[shard.shard] = line
                out.print(escape(f"{_clock()} {plain(shard)}"))
        await asyncio.sleep(interval.total_seconds())


@dataclasses.dataclass(frozen=True)
class _Look:
    stats: Sequence[BatcherStats]
    events: Sequence[str]


class _Watch:
    """Compares each look with the one before, and says what happened in between."""

    def __init__(self, settings: BatcherSettings) -> None:
        self._settings = settings
        self._known: dict[int, BatcherStats] = {}
        self._silent = ""

    @property
    def stats(self) -> list[BatcherStats]:
        return [self._known[shard] for shard in sorted(self._known)]

    async def look(self, client: Client) -> _Look:
        try:
            stats = await read_stats(client, self._settings)
        except NoAnswer as err:
            # Said once: a batcher without worker is a state, not a stream of news.
            repeated, self._silent = self._silent == str(err), str(err)
            return _Look([], [] if repeated else [f"{_clock()} {err}"])
        events = [f"{_clock()} the batcher answers again"] if self._silent else []
        self._silent = ""
        for shard in stats:
            events += [f"{_clock()} {shard.batcher}-{shard.shard} {event}" for event in self._news(shard)]
            self._known[shard.shard] = shard
        return _Look(stats, events)

    def _news(self, now: BatcherStats) -> list[str]:
        before = self._known.get(now.shard)
        if before is None:
            return [f"found: run {now.run_id[:8]}"]
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
    words = [word for word, on in (("draining", shard.draining), ("paused", shard.paused)) if on]
    if shard.breaker != "closed":
        words.append("sink down")
    return ", ".join(words) or ("flushing" if shard.in_flight else "gathering" if shard.pending else "idle")


def plain(shard: BatcherStats) -> str:
    """One shard on one line, as name=value."""
    values = {
        "state": state(shard).replace(" ", "-"),
        "pending": shard.pending,
        "oldest": f"{shard.oldest_pending_seconds:.1f}s",
        "in_flight": shard.in_flight,
        "batches": shard.batches,
        "largest": shard.largest_batch,
        "signals": shard.run_signals,
        "updates": shard.run_updates,
        "events": shard.run_events,
        "dedup": shard.dedup_ids,
        "continue_as_new": shard.continue_as_new,
        "suggested": "yes" if shard.suggested else "no",
        "breaker": shard.breaker,
        **{kind.value: shard.outcomes.get(kind, 0) for kind in OutcomeKind},
        "run": shard.run_id,
    }
    return f"{shard.batcher}-{shard.shard} " + " ".join(f"{name}={value}" for name, value in values.items())


def table(stats: Sequence[BatcherStats], *, width: int) -> Table:
    """Figures as rows and shards as columns where they fit; a short row for each shard where there are many."""
    return _columns(stats) if 34 + 12 * len(stats) <= width else _rows(stats)


_FIGURES: Sequence[tuple[str, str]] = (
    ("pending", "waiting for a batch"),
    ("oldest", "oldest waits"),
    ("in_flight", "in a flush now"),
    ("dedup_ids", "ids held for deduplication"),
    ("batches", "batches"),
    ("largest_batch", "largest batch"),
    ("run_signals", "signals this run"),
    ("run_updates", "updates this run"),
    ("run_events", "events this run"),
    ("continue_as_new", "continued as new"),
    ("suggested", "Temporal suggests it"),
    ("breaker", "breaker"),
)


def _columns(stats: Sequence[BatcherStats]) -> Table:
    grid = _empty_table(stats)
    grid.add_column("shard", style="dim")
    for shard in stats:
        grid.add_column(str(shard.shard), justify="right")
    grid.add_row("state", *(_coloured(shard) for shard in stats))
    for name, label in _FIGURES:
        grid.add_row(label, *(_cell(shard, name) for shard in stats))
    for trigger in sorted({trigger for shard in stats for trigger in shard.batches_by_trigger}):
        grid.add_row(f"  batches by {trigger}", *(f"{s.batches_by_trigger.get(trigger, 0):,}" for s in stats))
    for kind in OutcomeKind:
        grid.add_row(kind.value, *(f"{shard.outcomes.get(kind, 0):,}" for shard in stats))
    return grid


def _rows(stats: Sequence[BatcherStats]) -> Table:
    grid = _empty_table(stats)
    for heading in ("shard", "state", "waiting", "oldest", "batches", "written", "other", "cycles"):
        grid.add_column(heading, justify="left" if heading == "state" else "right")
    for shard in stats:
        written = shard.outcomes.get(OutcomeKind.WRITTEN, 0)
        grid.add_row(
            str(shard.shard),
            _coloured(shard),
            f"{shard.pending:,}",
            _cell(shard, "oldest"),
            f"{shard.batches:,}",
            f"{written:,}",
            f"{sum(shard.outcomes.values()) - written:,}",
            f"{shard.continue_as_new:,}",
        )
    return grid


def _empty_table(stats: Sequence[BatcherStats]) -> Table:
    name = stats[0].batcher if stats else ""
    return Table(title=f"Batcher '{escape(name)}' at {_clock()}", title_justify="left", title_style="bold")


def _coloured(shard: BatcherStats) -> str:
    text = state(shard)
    colour = "red" if "down" in text else "yellow" if shard.paused or shard.draining else "green"
    return f"[{colour}]{text}[/{colour}]"


def _cell(shard: BatcherStats, name: str) -> str:
    if name == "oldest":
        return f"{shard.oldest_pending_seconds:.1f} s" if shard.pending else "-"
    value = getattr(shard, name)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else escape(str(value))


def _clock() -> str:
    return datetime.now().strftime("%H:%M:%S")
