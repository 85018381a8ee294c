"""Time, chance and the database of a simulated run."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from random import Random
from typing import Any

from temporal_batching.audit.rules import StoredRecord
from temporal_batching.contract import OPERATIONS, Outcome, ReturnedRow, WriteRequest
from temporal_batching.errors import SinkUnavailable
from temporal_batching.sinks.base import Batch, Sink
from temporal_batching.sinks.ledger import LedgerStatus
from temporal_batching.sinks.memory import MemorySink
from temporal_batching.wire.parcels import ParcelSource
from tests.simulation.operations import KEYS, STATES, TABLES
from tests.simulation.plan import Plan

EPOCH = 1_700_000_000.0


class World:
    """The scheduler: events in the order of their time, one at a time."""

    def __init__(self, plan: Plan, *, trace: bool = False) -> None:
        self.seed = plan.seed
        self.faults = dict(plan.faults)
        self.shards = plan.shards
        self.fenced = plan.fenced
        self.time = 0.0
        self.skipped = 0.0  # how far the clocks have jumped ahead
        self.lines: list[str] | None = [] if trace else None
        self.seen: Counter[str] = Counter()
        self.down: str | None = None
        self.fragile_refused = False
        self.callers_unreachable = False
        self.database = MemorySink(
            tables=TABLES, reject=self._refuse, identities={"t": "number"}, clock=lambda: self.clock
        )
        self.database.rows[STATES] = [{"id": key, "content": "seed"} for key in KEYS]
        self.locked: set[str] = set()  # keys of rows that somebody else holds
        self.contents: dict[ParcelSource, str] = {}  # in the inputs of activities
        self.contents_unreadable = False
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    @property
    def clock(self) -> float:
        """Seconds since the epoch, as everybody reads them."""
        return EPOCH + self.time + self.skipped

    def after(self, seconds: float, do: Callable[..., None], *args: Any) -> None:
        self._count += 1
        heapq.heappush(self._queue, (self.time + seconds, self._count, do, args))

    def run(self, until: float) -> None:
        while self._queue and self._queue[0][0] <= until:
            self.time, _, do, args = heapq.heappop(self._queue)
            do(*args)

    @property
    def quiet(self) -> bool:
        return not self._queue

    def rng(self, *label: object) -> Random:
        """Chance of its own for everything that has a name: leaving one thing out does not change the others."""
        return Random(f"{self.seed}/{label}")

    def note(self, text: str, *kinds: str) -> None:
        self.seen.update(kinds)
        if self.lines is not None:
            self.lines.append(f"{self.time:8.3f}  {text}")

    def delay(self, rng: Random) -> float:
        """How long something takes on its way."""
        if rng.random() < self.faults["slow"]:
            return rng.uniform(0.5, 12.0)
        return rng.uniform(0.001, 0.05)

    def _refuse(self, request: WriteRequest) -> str | None:
        content: str = request.records[0].values["content"]
        if "-refused-" in content or ("-fragile-" in content and self.fragile_refused):
            return "the constraint says no"
        return None

    def rows(self) -> list[StoredRecord]:
        return [StoredRecord(r["request"], r["content"], r["position"]) for r in self.database.rows.get("t", ())]

    def ledger(self) -> list[str]:
        return [i for i, submission in self.database.ledger.items() if submission.status is LedgerStatus.WRITTEN]


class Pause:
    """Awaited by simulated code: it goes on so many seconds later."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __await__(self) -> Generator[float, None, None]:
        yield self._seconds


class Task:
    """Drives a coroutine over simulated time. Killed, it never goes on, as in a process that is gone."""

    def __init__(
        self, world: World, body: Coroutine[float, None, Any], done: Callable[[Any, Exception | None], None]
    ) -> None:
        self._world = world
        self._body = body
        self._done = done
        self.alive = True
        self._step()

    def kill(self) -> None:
        if self.alive:
            self.alive = False
            self._body.close()

    def _step(self) -> None:
        if not self.alive:
            return
        try:
            seconds = self._body.send(None)
        except StopIteration as end:
            self.alive = False
            self._done(end.value, None)
        except Exception as err:
            self.alive = False
            self._done(None, err)
        else:
            self._world.after(seconds, self._step)


class Connection(Sink):
    """One flush's way to the database: slow, cut before or after the commit, or stuck until nobody waits any more."""

    takes_references = True
    operations = OPERATIONS

    def __init__(self, world: World, rng: Random) -> None:
        self._world = world
        self._rng = rng

    async def write(self, batch: Batch) -> Sequence[Outcome]:
        await self._takes_time()
        self._fails_if_down()
        if any("-breaks-" in _content(request) for request in batch):
            self._world.note(f"{batch.id}: the sink itself breaks", "sink breaks")
            raise ZeroDivisionError("the sink breaks")
        self._may_be_cut(batch, "before")
        later = self._later(batch)
        now = [request for request in batch if request.request_id not in later]
        written = await self._world.database.write(Batch(now, id=batch.id)) if now else []
        self._world.note(f"{batch.id}: commits {_pairs(now, written)}, later {list(later)}")
        await self._takes_time()
        self._may_be_cut(batch, "after")
        if any("-lost-" in _content(request) for request in batch):
            self._world.note(f"{batch.id}: the sink breaks after its effect", "sink breaks after effect")
            raise ZeroDivisionError("the sink breaks after its effect")
        answers = iter(written)
        return [later.get(request.request_id) or next(answers) for request in batch]

    def _later(self, batch: Batch) -> dict[str, Outcome]:
        """What cannot be written now: behind a lock, or never, and what comes after it under its key."""
        later: dict[str, Outcome] = {}
        waiting: set[str] = set()
        for request in batch:
            content = _content(request)
            locked = request.key in self._world.locked or "-never-" in content
            if locked or request.key in waiting or request.request_id in later:
                self._world.note(f"{batch.id}: {request.request_id} is to be retried", "locked")
                later[request.request_id] = Outcome.retry("locked", in_doubt=self._rng.random() < 0.2)
                waiting |= {request.key} - {""}
        return later

    async def fence(self, batch: Batch) -> Sequence[Outcome]:
        await self._takes_time()
        self._fails_if_down()
        self._may_be_cut(batch, "before")
        outcomes = await self._world.database.fence(batch)
        self._world.note(f"{batch.id}: settles {_pairs(batch, outcomes)}", "asked the ledger")
        await self._takes_time()
        self._may_be_cut(batch, "after")
        return outcomes

    async def read_returned(self, request_ids: Sequence[str]) -> Mapping[str, Sequence[ReturnedRow | None]]:
        await self._takes_time()
        self._fails_if_down()
        return await self._world.database.read_returned(request_ids)

    async def _takes_time(self) -> None:
        stuck = self._rng.random() < self._world.faults["stuck"]
        await Pause(self._rng.uniform(2.0, 25.0) if stuck else self._rng.uniform(0.001, 0.1))

    def _fails_if_down(self) -> None:
        if self._world.down:
            raise SinkUnavailable("the database is down", in_doubt=self._world.down == "in doubt")

    def _may_be_cut(self, batch: Batch, when: str) -> None:
        if self._rng.random() < self._world.faults["broken"] / 2:
            self._world.note(f"{batch.id}: the connection is cut {when} the commit", f"cut {when} commit")
            raise SinkUnavailable(f"cut {when} the commit", in_doubt=True)


class WithoutFence(Sink):
    """The same way, for a sink without a `fence` of its own."""

    takes_references = True
    operations = OPERATIONS

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def write(self, batch: Batch) -> Sequence[Outcome]:
        return await self._connection.write(batch)

    async def read_returned(self, request_ids: Sequence[str]) -> Mapping[str, Sequence[ReturnedRow | None]]:
        return await self._connection.read_returned(request_ids)


def _content(request: WriteRequest) -> str:
    content: str = request.records[0].values["content"]
    return content


def _pairs(batch: Sequence[WriteRequest], outcomes: Sequence[Outcome]) -> list[str]:
    return [f"{request.request_id} {outcome.kind}" for request, outcome in zip(batch, outcomes, strict=True)]
