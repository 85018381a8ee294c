"""``temporal-batching monitor`` and ``stats``: a batcher's figures, live or once."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

import typer
from temporalio.client import Client

from temporal_batching import BatcherHandle
from temporal_batching.cli.connect import Target, connect_to_batcher, unreadable
from temporal_batching.cli.console import out, run
from temporal_batching.cli.options import BATCHER, read_duration, switch, with_settings
from temporal_batching.contract import BatcherStats
from temporal_batching.monitoring import BatcherUnreadable, reading
from temporal_batching.monitoring import monitor as watch
from temporal_batching.monitoring.view import figures, plain
from temporal_batching.settings import BatcherSettings

Interval = Annotated[str, typer.Option("--interval", metavar="DURATION", help="How often to look.")]


@with_settings(*BATCHER)
def monitor(
    settings: BatcherSettings,
    target: Target,
    interval: Interval = "1s",
    once: Annotated[bool, switch("--once", "Print the figures once and exit.")] = False,
) -> None:
    """Watch a batcher, through every continue-as-new."""
    run(_monitor(settings, target, interval, once))


@with_settings(*BATCHER)
def stats(
    settings: BatcherSettings, target: Target, json: Annotated[bool, switch("--json", "As JSON.")] = False
) -> None:
    """Print every shard's figures."""
    run(_stats(settings, target, json))


def handle_for(client: Client, settings: BatcherSettings) -> BatcherHandle:
    """The batcher that the settings name."""
    return BatcherHandle(client, settings.name, shards=settings.shards, task_queue=settings.task_queue)


async def read_stats(client: Client, settings: BatcherSettings) -> list[BatcherStats]:
    """Asks every shard.

    Raises:
        NoAnswer: It says what is missing.
        CommandError: Another data converter is needed.
    """
    try:
        return await reading.read_stats(handle_for(client, settings))
    except BatcherUnreadable:
        raise unreadable(settings) from None


def as_json(stats: Sequence[BatcherStats]) -> str:
    return json.dumps([dataclasses.asdict(shard) for shard in stats])


def show(stats: Sequence[BatcherStats]) -> None:
    """Prints the figures: a table for a terminal, a line for each shard otherwise."""
    if out.is_terminal:
        out.print(figures(stats, width=out.width))
    else:
        out.print("\n".join(map(plain, stats)), markup=False)


async def _monitor(settings: BatcherSettings, target: Target, interval: str, once: bool) -> int:
    every = read_duration("--interval", interval)
    client = await connect_to_batcher(target, settings)
    if once:
        show(await read_stats(client, settings))
        return 0
    try:
        with suppress(asyncio.CancelledError):  # Ctrl-C is how one ends it
            await watch(handle_for(client, settings), interval=every, console=out)
    except BatcherUnreadable:
        raise unreadable(settings) from None
    return 0


async def _stats(settings: BatcherSettings, target: Target, json: bool) -> int:
    shards = await read_stats(await connect_to_batcher(target, settings), settings)
    if json:
        out.print(as_json(shards), markup=False)
    else:
        show(shards)
    return 0
