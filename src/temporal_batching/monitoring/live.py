"""`monitor`: a batcher on a console, live."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import timedelta

from rich.console import Console
from rich.live import Live
from rich.markup import escape

from temporal_batching.batcher.handle import BatcherHandle
from temporal_batching.monitoring.view import figures, plain
from temporal_batching.monitoring.watch import Watch, clock
from temporal_batching.terminal import CleanConsole


async def monitor(
    batcher: BatcherHandle, *, interval: timedelta = timedelta(seconds=1), console: Console | None = None
) -> None:
    """Shows a batcher's figures live, until it is cancelled.

    On a terminal it draws them in place, down to 40 columns and 15 lines; elsewhere it prints a line when a shard's
    figures have changed. Above them it prints a line for each continue-as-new, each failure of the sink and its end,
    and each pause. It follows the batcher into every new run, and waits for one that does not run.

    Example:
        Beside a worker, or instead of looking at the Web UI::

            batcher = BatcherHandle(client, "main")
            await monitor(batcher)

    Args:
        batcher: Which batcher.
        interval: How often its shards are asked. Each time costs a query a shard, and adds nothing to its history.
        console: Where to; standard output by default.

    Raises:
        BatcherUnreadable: The client's data converter is another one than the batcher's.
    """
    console = console or CleanConsole(highlight=False, soft_wrap=True)
    watch = Watch(batcher)
    if console.is_terminal:
        await _draw(watch, interval, console)
    else:
        await _print(watch, interval, console)


async def _draw(watch: Watch, interval: timedelta, console: Console) -> None:
    with Live(console=console, auto_refresh=False) as live:
        while True:
            for line in (await watch.look()).events:
                live.console.print(escape(line))
            live.update(figures(watch.stats, width=console.width, height=console.height), refresh=True)
            await asyncio.sleep(interval.total_seconds())


async def _print(watch: Watch, interval: timedelta, console: Console) -> None:
    printed: dict[int, str] = {}
    while True:
        look = await watch.look()
        for line in look.events:
            console.print(escape(line))
        for shard in look.stats:
            # Ages that grow with time are no change worth a line.
            line = plain(dataclasses.replace(shard, oldest_pending_seconds=0.0))
            if printed.get(shard.shard) != line:
                printed[shard.shard] = line
                console.print(escape(f"{clock()} {plain(shard)}"))
        await asyncio.sleep(interval.total_seconds())
