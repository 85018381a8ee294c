"""``temporal-batching dead-letters`` and ``resend``: rejected requests without a reply address."""

from __future__ import annotations

from typing import Annotated

import typer

from temporal_batching.cli.connect import Target, connect_to_batcher
from temporal_batching.cli.console import run, sql_is_installed
from temporal_batching.cli.options import BATCHER, switch, with_settings
from temporal_batching.settings import BatcherSettings


@with_settings("name", "sink", "dead_letters")
def dead_letters(
    settings: BatcherSettings,
    target: Target,
    json: Annotated[bool, switch("--json", "A JSON object each, with the records.")] = False,
) -> None:
    """List the batcher's rejected requests that have no reply address: signals without `reply_to`."""
    run(_list(settings, json))


@with_settings(*BATCHER, "sink", "dead_letters")
def resend(
    settings: BatcherSettings,
    target: Target,
    letters: Annotated[list[str] | None, typer.Argument(metavar="[LETTER]...", show_default=False)] = None,
    every: Annotated[bool, switch("--all", "All that there are.")] = False,
) -> None:
    """Resubmit the batcher's dead letters. Exit status 0 only if all of them are written then."""
    run(_resend(settings, target, letters or [], every))


async def _list(settings: BatcherSettings, json: bool) -> int:
    with sql_is_installed("dead letters need"):
        from temporal_batching.cli.letter_box import list_dead_letters
    return await list_dead_letters(settings, as_json=json)


async def _resend(settings: BatcherSettings, target: Target, letters: list[str], every: bool) -> int:
    with sql_is_installed("dead letters need"):
        from temporal_batching.cli.letter_box import resend_dead_letters
    client = await connect_to_batcher(target, settings)
    return await resend_dead_letters(client, settings, letters, every=every)
