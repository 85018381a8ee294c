"""Writes of every kind, by every way in, some of them with trouble of their own."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from temporalio.client import WorkflowFailureError
from temporalio.service import RPCError

from temporal_batching import BatchClient, Confirmation, OutcomeKind, WriteRequest
from tests.faults.auditing import TABLE, Asked
from tests.faults.scene import Scene
from tests.support.callers import WAYS_IN, Caller, CallerResult, record_of
from tests.support.databases import TestDatabase

RATE = 25.0
ATTEMPT = 2.0
"""Seconds that a caller gives its gateway: what was in the hands of one that died is asked again soon."""
PATIENT = 60.0
HASTY = 3.0
LOCKED = 100
"""Characters more: a fact of that length needs a row that an outsider locks now and then."""

_LOCKS = (
    "CREATE TABLE locks (id integer PRIMARY KEY);;INSERT INTO locks VALUES (1)"
    ";;CREATE FUNCTION need_lock() RETURNS trigger LANGUAGE plpgsql"
    " AS $$ BEGIN PERFORM 1 FROM locks WHERE id = 1 FOR SHARE NOWAIT; RETURN NEW; END $$"
    f";;CREATE TRIGGER need_lock BEFORE INSERT ON {TABLE} FOR EACH ROW WHEN (length(NEW.content) > {LOCKED})"
    " EXECUTE FUNCTION need_lock()"
)


class Load:
    """Keeps asking through a scene."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._tasks: set[asyncio.Task[None]] = set()
        self._alone: set[str] = set()
        self._client = BatchClient(
            scene.client,
            scene.name,
            shards=scene.shards,
            task_queue=scene.queue,
            timeout=timedelta(seconds=PATIENT),
            attempt_timeout=timedelta(seconds=ATTEMPT),
        )

    def prepare(self) -> None:
        if self._scene.database.dialect == "postgresql":
            self._scene.database.execute(_LOCKS)

    @contextlib.asynccontextmanager
    async def running(self, seed: str) -> AsyncIterator[None]:
        """Asks for the length of the block."""
        dice = random.Random(f"load {seed}")
        tasks = [asyncio.create_task(self._ask(dice))]
        if self._scene.database.dialect == "postgresql":
            tasks.append(asyncio.create_task(_hold_a_lock(self._scene.database, dice)))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def until_over(self) -> None:
        """Waits for those whom the scene does not wait for itself; whatever broke in them is raised."""
        while self._tasks:
            done, _ = await asyncio.wait(self._tasks)
            self._tasks -= done
            for task in done:
                task.result()

    async def _ask(self, dice: random.Random) -> None:
        kinds: list[tuple[Callable[[random.Random], None], int]] = [
            (self._plain, 8),
            (self._repeated, 1),
            (self._hasty, 1),
            (self._poisoned, 1),
            (self._locked, 2),
            (self._cancelled, 1),
            (self._parcel, 1),
        ]
        while True:
            (kind,) = dice.choices([kind for kind, _ in kinds], weights=[weight for _, weight in kinds])
            kind(dice)
            await asyncio.sleep(dice.uniform(0, 2 / RATE))

    def _plain(self, dice: random.Random) -> None:
        self._scene.ask(dice.choice(WAYS_IN), timeout=PATIENT, attempt_timeout=ATTEMPT)

    def _repeated(self, dice: random.Random) -> None:
        if not self._scene.asked:
            return
        # Not one of those that may end without being written: another caller could receive another outcome.
        first = dice.choice(self._scene.asked[-50:])
        if first.way_in in WAYS_IN and first.request_id not in self._alone:
            self._scene.ask(first.way_in, again=first, timeout=PATIENT, attempt_timeout=ATTEMPT)

    def _hasty(self, dice: random.Random) -> None:
        asked = self._scene.ask(dice.choice(WAYS_IN), timeout=HASTY, attempt_timeout=ATTEMPT)
        self._alone.add(asked.request_id)

    def _poisoned(self, dice: random.Random) -> None:
        nothing = {"request_id": None, "position": 0, "content": ""}
        poison = dice.choice(([TABLE, nothing], ["no_such_table", {"n": 1}]))
        asked = self._scene.ask(dice.choice(WAYS_IN), poison=list(poison), timeout=PATIENT, attempt_timeout=ATTEMPT)
        self._alone.add(asked.request_id)

    def _locked(self, dice: random.Random) -> None:
        self._scene.ask(dice.choice(WAYS_IN), padding=LOCKED, timeout=PATIENT, attempt_timeout=ATTEMPT)

    def _cancelled(self, dice: random.Random) -> None:
        asked, write = self._scene.new_write(dice.choice(WAYS_IN))
        job = self._scene.job(asked.way_in, write, timeout=PATIENT, attempt_timeout=ATTEMPT)
        self._alone.add(asked.request_id)

        async def start_and_cancel() -> None:
            with contextlib.suppress(RPCError, RuntimeError):
                handle = await self._scene.start(Caller.run, job, asked)
                await asyncio.sleep(dice.uniform(0, 1))
                await handle.cancel()
            asked.learned_nothing()
            await self._until_closed(asked)

        self._spawn(start_and_cancel())

    async def _until_closed(self, asked: Asked) -> None:
        handle = self._scene.client.get_workflow_handle(f"{self._scene.name}-{asked.caller}")
        while True:
            try:
                await handle.result()
            except WorkflowFailureError:
                return
            except (RPCError, RuntimeError) as err:
                if isinstance(err, RPCError) and err.status.name == "NOT_FOUND":  # it was never started
                    return
                await asyncio.sleep(0.2)
            else:
                return

    def _parcel(self, dice: random.Random) -> None:
        written = [self._scene.new_write("parcel") for _ in range(dice.randrange(2, 12))]
        requests = [
            WriteRequest(asked.request_id, [record_of(row) for row in write.rows], write.key)
            for asked, write in written
        ]

        async def write_many() -> None:
            try:
                results = await self._client.write_many(requests)
            except (RPCError, RuntimeError, ExceptionGroup):  # the server is down: a program would try again
                for asked, _ in written:
                    asked.learned_nothing()
                return
            for (asked, _), result in zip(written, results, strict=True):
                if isinstance(result, Confirmation):
                    error, returned = _error(result), result.returned
                    asked.was_notified(CallerResult(result.outcome, asked.request_id, error=error, returned=returned))
                else:
                    asked.was_notified(CallerResult("", asked.request_id, error=type(result).__name__))

        self._spawn(write_many())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.add(asyncio.create_task(work))


def _error(confirmation: Confirmation) -> str | None:
    """What a workflow would have received as an error."""
    errors = {OutcomeKind.REJECTED: "WriteRejected", OutcomeKind.EXPIRED: "WriteExpired"}
    return errors.get(confirmation.outcome)


async def _hold_a_lock(database: TestDatabase, dice: random.Random) -> None:
    """Locks the row that some facts need, over and over, for a moment each."""
    task = asyncio.current_task()
    while task is not None and not task.cancelling():  # closing a dead connection hides a cancellation
        await asyncio.sleep(dice.uniform(0.1, 0.6))
        # While the database is down there is nothing to lock.
        with contextlib.suppress(sa.exc.DBAPIError), database.engine.connect() as connection:
            connection.execute(sa.text("SELECT 1 FROM locks FOR UPDATE"))
            await asyncio.sleep(dice.uniform(0.05, 0.5))
            connection.rollback()
