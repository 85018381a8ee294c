"""Reads one run of a shard event by event: what it cost, what it flushed, and what became of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from temporalio.api.common.v1 import Payloads
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent

from temporal_batching.contract import ACTIVITY_FLUSH, OutcomeKind
from temporal_batching.sizing.actions import HistoryCounts
from temporal_batching.wire.submission import Submission, load_submission

Decode = Callable[[Payloads], Awaitable[Any]]
"""The value of a payload; None if it cannot be decoded."""


@dataclass
class Flushed:
    """What the flushes of any number of runs did.

    Attributes:
        flushes: Flushes that ended with a result: a transaction each.
        failed: Attempts that ended without one.
        largest: Requests in the largest batch.
        records: Records in batches, each counted with the first attempt at its batch.
        by_way: Requests in them, by how they came: ``activity``, ``signal``, ``write_many``.
        parcels: Parcels in them.
        outcomes: Requests settled, by outcome.
        unreadable: Inputs and results that this client cannot read.
    """

    flushes: int = 0
    failed: int = 0
    largest: int = 0
    records: int = 0
    by_way: Counter[str] = field(default_factory=Counter)
    parcels: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    unreadable: int = 0


class RunReader:
    """Reads one run. Only the inputs of its open flushes are kept.

    Args:
        counts: Where events are counted.
        flushed: Where flushes are counted.
        decode: Decodes a payload.
        since: Seconds since the epoch; what happened earlier is not counted.
    """

    def __init__(self, counts: HistoryCounts, flushed: Flushed, decode: Decode, *, since: float = 0.0) -> None:
        self._counts = counts
        self._flushed = flushed
        self._decode = decode
        self._since = since
        self._open: set[int] = set()

    async def read(self, event: HistoryEvent) -> None:
        """Reads the next event of the history."""
        counted = event.event_time.ToNanoseconds() / 1e9 >= self._since
        if counted:
            self._counts.add(event)
        kind = event.event_type
        if kind == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            scheduled = event.activity_task_scheduled_event_attributes
            if scheduled.activity_type.name == ACTIVITY_FLUSH:
                self._open.add(event.event_id)
                if counted:
                    await self._begun(scheduled.input)
        elif kind == EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
            completed = event.activity_task_completed_event_attributes
            if self._ends(completed.scheduled_event_id) and counted:
                await self._completed(completed.result)
        elif kind == EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED:
            failed = event.activity_task_failed_event_attributes
            self._flushed.failed += self._ends(failed.scheduled_event_id) and counted
        elif kind == EventType.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT:
            timed_out = event.activity_task_timed_out_event_attributes
            self._flushed.failed += self._ends(timed_out.scheduled_event_id) and counted

    def _ends(self, scheduled: int) -> bool:
        """Whether it is a flush that ends."""
        known = scheduled in self._open
        self._open.discard(scheduled)
        return known

    async def _begun(self, payloads: Payloads) -> None:
        flush = await self._decode(payloads)
        if not isinstance(flush, Mapping):
            self._flushed.unreadable += 1
            return
        wires = flush.get("submissions")
        if wires is None:  # a batch that is retried: it was counted with its first attempt
            return
        try:
            submissions = [load_submission(wire) for wire in wires]
        except (AttributeError, KeyError, TypeError, ValueError):  # made by another version of this library
            self._flushed.unreadable += 1
            return
        self._flushed.largest = max(self._flushed.largest, sum(one.requests for one in submissions))
        for submission in submissions:
            self._flushed.records += submission.records
            self._flushed.by_way[_way_of(submission)] += submission.requests
            self._flushed.parcels += submission.is_parcel

    async def _completed(self, payloads: Payloads) -> None:
        result = await self._decode(payloads)
        outcomes = result.get("outcomes") if isinstance(result, Mapping) else None
        if not isinstance(outcomes, Mapping):
            self._flushed.unreadable += 1
            return
        self._flushed.flushes += 1
        known = {str(kind) for kind in OutcomeKind}
        self._flushed.outcomes.update(
            {kind: count for kind, count in outcomes.items() if kind in known and isinstance(count, int)}
        )


def _way_of(submission: Submission) -> str:
    if submission.is_parcel:
        return "write_many"
    return "activity" if any(reply.by_activity for reply in submission.replies) else "signal"
