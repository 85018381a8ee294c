"""The ledger in the settings' database: looked up, and pruned."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import sqlalchemy as sa
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle, WorkflowQueryFailedError
from temporalio.service import RPCError, RPCStatusCode

from temporal_batching.audit.facts import LedgerFact
from temporal_batching.audit.ledger import LedgerReader
from temporal_batching.batcher.current_run import describe_current
from temporal_batching.batcher.silence import ANSWER_TIMEOUT
from temporal_batching.cli.console import EXIT_FAILED, CommandError, err, out, plural
from temporal_batching.cli.database import sync_engine
from temporal_batching.contract import QUERY_STATS, BatcherStats
from temporal_batching.policy import BatchPolicy
from temporal_batching.redaction import driver_message, redact_url, without_secrets
from temporal_batching.routing import batcher_workflow_id
from temporal_batching.settings import CONSOLE, BatcherSettings, SettingsError, format_duration
from temporal_batching.sinks.sql.ledger import ledger_table
from temporal_batching.sinks.sql.pruning import Pruned, count_ids, prune_ledger
from temporal_batching.sinks.sql.tables import has_schemas

T = TypeVar("T")


async def look_up(settings: BatcherSettings, request_ids: Sequence[str], *, as_json: bool) -> int:
    """Prints what the ledger knows of request ids.

    Returns:
        The exit status: 0 if it knows all of them, 1 otherwise.

    Raises:
        CommandError: It could not be read.
    """

    def read(engine: sa.Engine, ledger: sa.Table) -> dict[str, tuple[LedgerFact, list[Any] | None]]:
        with engine.begin() as connection:
            # The row with an empty id is the ledger's identity.
            facts = LedgerReader(connection, ledger).look_up([request_id for request_id in request_ids if request_id])
            query = sa.select(ledger.c.request_id, ledger.c.returned)
            query = query.where(ledger.c.request_id.in_([fact.request_id for fact in facts if fact.returned]))
            returned = {request_id: json.loads(rows) for request_id, rows in connection.execute(query)}
            return {fact.request_id: (fact, returned.get(fact.request_id)) for fact in facts}

    with _ledger(settings) as do:
        known = await do(read)
    for request_id in request_ids:
        fact, returned = known.get(request_id, (None, None))
        if as_json:
            print(json.dumps(_facts(request_id, fact, returned)), flush=True)
        elif fact is None:
            out.print(f"{request_id}  not in the ledger", markup=False)
        else:
            at = datetime.fromtimestamp(fact.committed_at, UTC).isoformat(sep=" ", timespec="milliseconds")
            rows = "" if returned is None else f"  returned {json.dumps(returned, ensure_ascii=False)}"
            out.print(f"{request_id}  {fact.status}  batch {fact.batch_id or '-'}  {at}{rows}", markup=False)
    return 0 if all(request_id in known for request_id in request_ids) else EXIT_FAILED


def _facts(request_id: str, fact: LedgerFact | None, returned: list[Any] | None) -> dict[str, object]:
    if fact is None:
        return {"request_id": request_id, "known": False}
    known: dict[str, object] = {
        "request_id": request_id,
        "known": True,
        "outcome": fact.status,
        "batch_id": fact.batch_id,
        "committed_at": datetime.fromtimestamp(fact.committed_at, UTC).isoformat(),
        "digest": fact.digest,
    }
    return known if returned is None else {**known, "returned": returned}


async def prune_old_ids(client: Client, settings: BatcherSettings, age: timedelta, *, dry_run: bool = False) -> int:
    """Deletes ids that are older than an age, and shows how far it is. Cancelled, it ends after its transaction.

    Raises:
        SettingsError: A request with such an id may still be waiting, or be submitted again; or no date is that old.
        CommandError: A shard cannot be asked, the ledger cannot be read, or its ids cannot be deleted.
    """
    least = await _least_age(client, settings)
    if age <= least:
        raise SettingsError(
            f"--older-than {format_duration(age)}: more than {format_duration(least)}, the longest time in force for "
            "which a request of this batcher may wait for its outcome"
        )
    try:
        before = datetime.now(UTC) - age
    except OverflowError:
        raise SettingsError(f"--older-than {format_duration(age)}: that is before the year 1") from None
    what = "would be deleted" if dry_run else "deleted"
    moment = before.isoformat(sep=" ", timespec="seconds")

    def report(done: Pruned, *, prefix: str = "") -> None:
        counts = f"{plural(done.old, 'id')} of {done.seen:,}"
        out.print(f"{prefix}{counts} {what} from {settings.ledger_table}: entered before {moment}.", markup=False)

    stop = threading.Event()
    with _ledger(settings) as do, _progress() as bar:
        task = bar.add_task("", total=await do(count_ids))

        def show(pruned: Pruned) -> None:
            bar.update(task, completed=pruned.seen)

        def prune(engine: sa.Engine, ledger: sa.Table) -> Pruned:
            return prune_ledger(engine, ledger, before, dry_run=dry_run, progress=show, should_stop=stop.is_set)

        pruning = asyncio.ensure_future(do(prune))
        try:
            done = await asyncio.shield(pruning)
        except asyncio.CancelledError:
            # A thread cannot be cancelled: unless it is asked to stop, it deletes all that is old.
            stop.set()
            report(await pruning, prefix="interrupted: ")
            raise
    report(done)
    return 0


async def _least_age(client: Client, settings: BatcherSettings) -> timedelta:
    """The longest time for which a request of the batcher may wait for its outcome, as far as it is known here.

    Raises:
        CommandError: A shard runs, but does not answer. Requests may have been waiting in it for any time.
    """
    limits, waiting = [settings.confirmation_timeout + settings.flush_timeout], 0.0
    for shard in await _shards(client, settings):
        policy = BatchPolicy.from_wire(shard.policy)
        limits.append(policy.confirmation_timeout + policy.flush_timeout)
        waiting = max(waiting, shard.oldest_pending_seconds)
    return max(*limits, timedelta(seconds=math.ceil(waiting)))


async def _shards(client: Client, settings: BatcherSettings) -> list[BatcherStats]:
    """The figures of each shard; of those beyond the settings' number too, up to the first that never was."""
    found: list[BatcherStats] = []
    for number in itertools.count():
        shard = client.get_workflow_handle(batcher_workflow_id(settings.name, number))
        status = await _status(shard)
        if status is WorkflowExecutionStatus.RUNNING:
            found.append(await _ask(shard))
        elif status is not None:
            # Nothing waits in it, but its callers may resubmit within its limits. Whether it still answers depends on
            # its worker, which may be gone for good.
            with suppress(CommandError):
                found.append(await _ask(shard))
        elif number >= settings.shards:
            break
    return found


async def _status(shard: WorkflowHandle[Any, Any]) -> WorkflowExecutionStatus | None:
    try:
        return (await describe_current(shard, timeout=ANSWER_TIMEOUT)).status
    except RPCError as problem:
        if problem.status is RPCStatusCode.NOT_FOUND:
            return None
        raise CommandError(f"{shard.id} cannot be looked up: {problem.message}") from None


async def _ask(shard: WorkflowHandle[Any, Any]) -> BatcherStats:
    try:
        stats: BatcherStats = await shard.query(QUERY_STATS, result_type=BatcherStats, rpc_timeout=ANSWER_TIMEOUT)
    except (RPCError, WorkflowQueryFailedError) as problem:
        raise CommandError(
            f"{shard.id} runs, but no worker answers for it: {problem.message}. Nothing is deleted, because requests "
            "may be waiting there. Start its worker first"
        ) from None
    return stats


class _LedgerWork:
    """Work with a ledger, in a thread."""

    def __init__(self, engine: sa.Engine, ledger: sa.Table, url: str) -> None:
        self._engine = engine
        self._ledger = ledger
        self._url = url

    async def __call__(self, work: Callable[[sa.Engine, sa.Table], T]) -> T:
        try:
            return await asyncio.to_thread(work, self._engine, self._ledger)
        except sa.exc.SQLAlchemyError as problem:
            reason = without_secrets(driver_message(problem), self._url)
            where = f"{self._ledger.fullname} in {redact_url(self._url)}"
            raise CommandError(f"Cannot use the ledger {where}: {reason}") from None


@contextmanager
def _ledger(settings: BatcherSettings) -> Iterator[_LedgerWork]:
    """The ledger of the settings, for work in threads.

    Raises:
        SettingsError: The settings name no database.
        CommandError: The database refused the work.
    """
    url = settings.sink_url()
    if url == CONSOLE:
        raise SettingsError("--sink 'console': a database URL, for only a database has a ledger")
    engine = sync_engine(url)
    try:
        yield _LedgerWork(engine, ledger_table(settings.ledger_table, schemas=has_schemas(engine.dialect)), url)
    finally:
        engine.dispose()


def _progress() -> Progress:
    """A bar on a terminal; nothing where the output is piped."""
    return Progress(
        BarColumn(), TextColumn("{task.completed:,.0f} of {task.total:,.0f} ids"), TimeRemainingColumn(),
        console=err, transient=True, disable=not err.is_terminal,
    )  # fmt: skip
