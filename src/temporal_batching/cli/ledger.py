"""``temporal-batching lookup`` and ``prune``: what a ledger knows, and deleting what it need not know any more."""

from __future__ import annotations

from typing import Annotated

import typer

from temporal_batching.cli.connect import Target, connect_to_batcher
from temporal_batching.cli.console import EXIT_TROUBLE, complain, run, sql_is_installed
from temporal_batching.cli.options import BATCHER, read_duration, switch, with_settings
from temporal_batching.errors import BatchingError
from temporal_batching.settings import BatcherSettings


@with_settings("sink", "ledger_table")
def lookup(
    settings: BatcherSettings,
    target: Target,
    request_ids: Annotated[list[str], typer.Argument(metavar="ID...", show_default=False)],
    json: Annotated[bool, switch("--json", "A JSON object each.")] = False,
) -> None:
    """Look up request ids in the ledger: the outcome, the batch and the time of each.

    Exit status 0 if the ledger knows all of them, 1 if it does not, 2 if that could not be found out.
    """
    run(_lookup(settings, request_ids, json))


@with_settings(*BATCHER, "sink", "ledger_table", "confirmation_timeout")
def prune(
    settings: BatcherSettings,
    target: Target,
    older_than: Annotated[str, typer.Option("--older-than", metavar="AGE", help="The age of ids to delete: 30d, 12h.")],
    dry_run: Annotated[bool, switch("--dry-run", "Count them, and delete nothing.")] = False,
) -> None:
    """Delete old request ids from the ledger, in small transactions.

    A deleted id is not known any more: choose an age after which no caller resubmits it and no workflow is reset.
    """
    run(_prune(settings, target, older_than, dry_run))


async def _lookup(settings: BatcherSettings, request_ids: list[str], json: bool) -> int:
    try:
        with sql_is_installed("a lookup needs"):
            from temporal_batching.cli.ledger_box import look_up
        return await look_up(settings, request_ids, as_json=json)
    except BatchingError as problem:
        complain(problem)
        return EXIT_TROUBLE


async def _prune(settings: BatcherSettings, target: Target, older_than: str, dry_run: bool) -> int:
    age = read_duration("--older-than", older_than)
    with sql_is_installed("pruning needs"):
        from temporal_batching.cli.ledger_box import prune_old_ids
    return await prune_old_ids(await connect_to_batcher(target, settings), settings, age, dry_run=dry_run)
