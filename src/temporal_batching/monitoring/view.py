"""The figures of a batcher's shards, drawn to fit a console: as lines, or as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeAlias

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from temporal_batching.contract import BatcherStats, OutcomeKind
from temporal_batching.monitoring.watch import clock, state

Shards: TypeAlias = Sequence[BatcherStats]
Figure: TypeAlias = Callable[[Shards], str]
"""A figure of one shard, or of several together."""

LABEL_WIDTH, SHARD_WIDTH = 24, 11
"""Columns of a table with a column for each shard."""

SHORTEST = 13
"""Lines of the figures that are always shown."""

EVENTS = 2
"""Lines of a terminal that are left to what happens meanwhile."""


def plain(shard: BatcherStats) -> str:
    """One shard on one line, as name=value."""
    values = {
        "state": state(shard).replace(" ", "-"),
        "pending": shard.pending,
        "signals": shard.run_signals,
        "updates": shard.run_updates,
        "batches": shard.batches,
        "requeued": shard.requeued,
        "dedup": shard.dedup_ids,
        "continue_as_new": shard.continue_as_new,
        "suggested": "yes" if shard.suggested else "no",
        "breaker": shard.breaker,
        "oldest": f"{shard.oldest_pending_seconds:.1f}s",
        "in_flight": shard.in_flight,
        "largest": shard.largest_batch,
        "events": shard.run_events,
        **{kind.value: shard.outcomes.get(kind, 0) for kind in _OUTCOMES},
        "run": shard.run_id,
    }
    return f"{shard.batcher}-{shard.shard} " + " ".join(f"{name}={value}" for name, value in values.items())


def figures(stats: Shards, *, width: int, height: int | None = None) -> RenderableType:
    """The figures within this width and, if it is given, this height.

    A column for each shard where they fit, and otherwise one for all of them, with a row for each shard below it. The
    figures that matter most come first: what does not fit is left out from the end.
    """
    if not stats:
        return Text("")
    lines = max(SHORTEST, height - EVENTS) if height else 1_000
    rows = lines - 2  # without the title and the sink's complaint
    parts: list[RenderableType] = [Text(f"Batcher '{stats[0].batcher}' at {clock()}", style="bold", no_wrap=True)]
    if len(stats) > 1 and LABEL_WIDTH + SHARD_WIDTH * len(stats) <= width:
        parts.append(_table([[shard] for shard in stats], rows))
    else:
        parts.append(_state_line(stats))
        parts.append(_table([stats], (rows if len(stats) == 1 else _ALWAYS) - 1))
        if len(stats) > 1 and (most := rows - _ALWAYS - 2) > 1:
            parts.append(_rows(stats, width=width, most=most))
    if complaints := Counter(shard.sink_error for shard in stats if shard.sink_error):
        line = Text(f"sink: {complaints.most_common(1)[0][0]}", style="red", no_wrap=True, overflow="ellipsis")
        parts.append(line)
    return Group(*parts)


def _state_line(shards: Shards) -> Text:
    """The state of one shard, or of all, on a line of its own: in a cell it would leave no room for the labels."""
    return Text(f"state: {_state(shards)}", style=_colour(shards), no_wrap=True, overflow="ellipsis")


def _total(name: str) -> Figure:
    return lambda shards: f"{sum(getattr(shard, name) for shard in shards):,}"


def _largest(shards: Shards) -> str:
    return f"{max(shard.largest_batch for shard in shards):,}"


def _oldest(shards: Shards) -> str:
    ages = [shard.oldest_pending_seconds for shard in shards if shard.pending]
    return f"{max(ages):.1f} s" if ages else "-"


def _counted(words: Sequence[str]) -> str:
    """One word where all shards agree; otherwise each word with its number of shards."""
    counts = Counter(words)
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{count} {word}" for word, count in counts.most_common())


def _state(shards: Shards) -> str:
    return _counted([state(shard) for shard in shards])


def _suggested(shards: Shards) -> str:
    return _counted(["yes" if shard.suggested else "no" for shard in shards])


def _breaker(shards: Shards) -> str:
    return _counted([shard.breaker for shard in shards])


def _outcome(kind: OutcomeKind) -> Figure:
    return lambda shards: f"{sum(shard.outcomes.get(kind, 0) for shard in shards):,}"


_OUTCOMES = [kind for kind in OutcomeKind if kind != OutcomeKind.RETRY]
"""Those that a request can end with."""

_FIGURES: Sequence[tuple[str, Figure]] = (
    ("state", _state),
    ("pending requests", _total("pending")),
    ("signals this session", _total("run_signals")),
    ("updates this session", _total("run_updates")),
    ("batches processed", _total("batches")),
    ("requeued requests", _total("requeued")),
    ("deduplication ids", _total("dedup_ids")),
    ("continue-as-new cycles", _total("continue_as_new")),
    ("suggested by Temporal", _suggested),
    ("breaker", _breaker),
    ("oldest request waits", _oldest),
    ("requests in a flush", _total("in_flight")),
    *((kind.value, _outcome(kind)) for kind in _OUTCOMES),
    ("largest batch", _largest),
    ("events this session", _total("run_events")),
)
"""In the order of their weight. A session is a run: it ends with each continue-as-new."""

_ALWAYS = 10
"""How many of these are shown on any console."""


def _table(columns: Sequence[Shards], most: int) -> Table:
    table = Table(box=None, show_header=len(columns) > 1, pad_edge=False)
    table.add_column("shard", style="dim", no_wrap=True)
    for shards in columns:
        table.add_column(str(shards[0].shard), justify="right", no_wrap=True)
    triggers = sorted({trigger for shards in columns for shard in shards for trigger in shard.batches_by_trigger})
    figures_ = _FIGURES if len(columns) > 1 else [one for one in _FIGURES if one[0] != "state"]
    wanted = [*figures_, *((f"batches by {trigger}", _triggered(trigger)) for trigger in triggers)]
    for label, figure in wanted[: most - (len(columns) > 1)]:
        cells = [Text(figure(shards), style=_colour(shards) if label == "state" else "") for shards in columns]
        table.add_row(label, *cells)
    return table


def _triggered(trigger: str) -> Figure:
    return lambda shards: f"{sum(shard.batches_by_trigger.get(trigger, 0) for shard in shards):,}"


def _rows(stats: Shards, *, width: int, most: int) -> RenderableType:
    """A row for each shard, those that need attention first where there is no room for all."""
    shown = list(stats)
    if len(stats) > most:
        shown = sorted(stats, key=lambda shard: (shard.breaker == "closed", -shard.pending, shard.shard))[:most]
    named = {"state": "state", "pending requests": "pending", "signals this session": "signals"}
    named |= {"batches processed": "batches", "written": "written", "continue-as-new cycles": "cycles"}
    table, room = Table(box=None, pad_edge=False), width
    columns = [("shard", [str(shard.shard) for shard in shown])]
    columns += [(named[label], [figure([shard]) for shard in shown]) for label, figure in _FIGURES if label in named]
    cells = []
    for heading, values in columns:
        room -= max(map(len, [heading, *values])) + 2
        if room < 0:
            break
        table.add_column(heading, justify="left" if heading == "state" else "right", no_wrap=True)
        cells.append(values)
    for shard, row in zip(shown, zip(*cells, strict=True), strict=True):
        table.add_row(*(Text(cell, style=_colour([shard]) if cell == state(shard) else "") for cell in row))
    if len(shown) == len(stats):
        return Group(Text(""), table)
    return Group(table, Text(f"and {len(stats) - len(shown):,} more", style="dim"))


def _colour(shards: Shards) -> str:
    if any(shard.breaker != "closed" for shard in shards):
        return "red"
    return "yellow" if any(shard.paused or shard.draining for shard in shards) else "green"
