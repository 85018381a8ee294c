"""The dead letters in a database: listed, and resubmitted through their batcher."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC
from typing import TypeVar

import sqlalchemy as sa
from rich.markup import escape
from rich.table import Table
from temporalio.client import Client

from temporal_batching import BatchClient
from temporal_batching.cli.console import EXIT_FAILED, CommandError, err, out, plural
from temporal_batching.cli.database import sync_engine
from temporal_batching.errors import WriteError
from temporal_batching.redaction import driver_message, redact_url, without_secrets
from temporal_batching.routing import batcher_of
from temporal_batching.settings import CONSOLE, NONE, BatcherSettings, SettingsError
from temporal_batching.sinks.sql.dead_letters import DeadLetters, KeptLetter

T = TypeVar("T")

AT_ONCE = 50
"""Letters of different keys that are sent side by side, so that they meet in batches and leave room for others."""


class Box:
    """The dead letters in the settings' database."""

    def __init__(self, settings: BatcherSettings) -> None:
        self._url = settings.sink_url()
        if self._url == CONSOLE:
            raise SettingsError("--sink 'console': a database URL, for only a database keeps dead letters")
        if settings.dead_letters is None:
            raise SettingsError(f"--dead-letters '{NONE}': the table of dead letters")
        self._engine = sync_engine(self._url)
        self._letters = DeadLetters(settings.dead_letters, self._engine.dialect)

    async def read(self) -> list[KeptLetter]:
        """All of them: a table may hold those of several batchers."""
        return await asyncio.to_thread(self._do, self._letters.read)

    async def remove(self, letter: KeptLetter) -> None:
        await asyncio.to_thread(self._do, lambda connection: self._letters.remove(connection, letter.id))

    def close(self) -> None:
        self._engine.dispose()

    def _do(self, work: Callable[[sa.Connection], T]) -> T:
        try:
            with self._engine.begin() as connection:
                return work(connection)
        except sa.exc.SQLAlchemyError as problem:
            reason = without_secrets(driver_message(problem), self._url)
            raise CommandError(f"Cannot read the dead letters in {redact_url(self._url)}: {reason}") from None


async def list_dead_letters(settings: BatcherSettings, *, as_json: bool) -> int:
    with closing(Box(settings)) as box:
        letters, others = _of(settings.name, await box.read())
    if others:
        names = ", ".join(sorted({batcher_of(letter.batch_id) for letter in others}))
        err.print(f"{plural(len(others), 'dead letter')} of another batcher: {names}; --name lists them.", markup=False)
    if as_json:
        for letter in letters:
            print(json.dumps(_facts(letter)), flush=True)
    elif not letters:
        out.print("No dead letters.")
    elif out.is_terminal:
        shown = Table("letter", "since", "request", "batch", "code", "reason", box=None)
        for letter in letters:
            shown.add_row(*map(escape, _columns(letter)))
        out.print(shown)
    else:
        for letter in letters:
            out.print("  ".join(_columns(letter)), markup=False)
    return 0


def _of(batcher: str, letters: Sequence[KeptLetter]) -> tuple[list[KeptLetter], list[KeptLetter]]:
    """The letters of a batcher, and those of others."""
    ours = [letter for letter in letters if batcher_of(letter.batch_id) == batcher]
    return ours, [letter for letter in letters if batcher_of(letter.batch_id) != batcher]


def _columns(letter: KeptLetter) -> tuple[str, ...]:
    at = letter.kept_at.astimezone(UTC).isoformat(sep=" ", timespec="seconds")
    return (letter.id, at, letter.request.request_id, letter.batch_id, letter.code, letter.reason)


def _facts(letter: KeptLetter) -> dict[str, object]:
    request = letter.request
    return {
        "letter": letter.id,
        "kept_at": letter.kept_at.astimezone(UTC).isoformat(),
        "batch_id": letter.batch_id,
        "code": letter.code,
        "reason": letter.reason,
        "request_id": request.request_id,
        "key": request.key,
        "records": [{"table": record.table, "values": record.values} for record in request.records],
    }


async def resend_dead_letters(client: Client, settings: BatcherSettings, ids: Sequence[str], *, every: bool) -> int:
    """Resubmits the batcher's letters under their own request ids, and removes those that are written.

    Letters of one key go one after the other, as they came.
    """
    if bool(ids) == every:
        raise SettingsError("which dead letters? Their ids, as `dead-letters` lists them, or --all")
    with closing(Box(settings)) as box:
        letters, others = _of(settings.name, await box.read())
        for letter in others:
            if letter.id in ids:
                whose = batcher_of(letter.batch_id)
                raise CommandError(f"dead letter {letter.id} is of batcher {whose!r}: --name {whose}")
        unknown = set(ids) - {letter.id for letter in letters}
        if unknown:
            raise CommandError(f"there is no dead letter {', '.join(sorted(unknown))}")
        chosen = [letter for letter in letters if every or letter.id in ids]
        writer = BatchClient(client, settings.name, shards=settings.shards, task_queue=settings.task_queue)
        lanes: dict[str, list[KeptLetter]] = {}
        for letter in chosen:
            # Without a key there is no order; but the same id twice must not meet itself.
            lanes.setdefault(letter.request.key or f"\0{letter.request.request_id}", []).append(letter)
        room = asyncio.Semaphore(AT_ONCE)
        counts = await asyncio.gather(*(_resend(writer, box, lane, room) for lane in lanes.values()))
    written = sum(counts)
    out.print(f"{plural(written, 'dead letter')} of {len(chosen):,} written.")
    return 0 if written == len(chosen) else EXIT_FAILED


async def _resend(writer: BatchClient, box: Box, lane: Sequence[KeptLetter], room: asyncio.Semaphore) -> int:
    written = 0
    for letter in lane:
        request = letter.request
        try:
            async with room:
                await writer.write_all(request.records, key=request.key, request_id=request.request_id)
        except WriteError as problem:
            err.print(f"{letter.id}: {type(problem).__name__}: {problem}", markup=False)
            continue
        await box.remove(letter)
        written += 1
    return written
