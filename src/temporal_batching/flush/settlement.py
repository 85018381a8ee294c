"""What becomes of a batch: written through the sink, an outcome for every request, a delivery for every caller.

Needs no Temporal server, so that a simulation can run what the activity runs.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from temporal_batching.contents import Missing
from temporal_batching.contract import (
    Confirmation,
    Delivery,
    FlushInput,
    Outcome,
    OutcomeKind,
    ParcelReceipt,
    RejectCode,
    ReplyTo,
    Requeued,
    ReturnedRow,
    WriteRequest,
)
from temporal_batching.errors import ErrorType, InvalidRequest, SinkUnavailable
from temporal_batching.flush.letters import keep_dead_letters
from temporal_batching.flush.sink_calls import SinkCalls, named
from temporal_batching.logs import about_requests, logger
from temporal_batching.policy import MAX_MESSAGE_RETURNED
from temporal_batching.sinks.base import Sink
from temporal_batching.sinks.dead_letters import DeadLetter
from temporal_batching.wire.checks import measure
from temporal_batching.wire.parcels import PackedParcel, check_keys_of_shard, keys_of
from temporal_batching.wire.submission import WITHDRAWN, Submission


def unavailable(problem: str, *, in_doubt: bool, ledger: str | None = None) -> ApplicationError:
    """The failure of a flush that is to be retried. The shard logs it in one line; the SDK need not as well.

    Args:
        problem: Why, for people.
        in_doubt: Whether the batch may be committed nevertheless.
        ledger: The identity of the ledger that it went into, or would have gone into.
    """
    return ApplicationError(
        " ".join(problem.split()),
        in_doubt,
        ledger,
        type=ErrorType.SINK_UNAVAILABLE,
        non_retryable=True,
        category=ApplicationErrorCategory.BENIGN,
    )


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What became of a batch.

    Attributes:
        counts: Requests by outcome.
        records: Records in it.
        deliveries: What each caller is to receive.
        requeued: Submissions that are to be retried; their callers receive nothing yet.
        unknown: Submissions past their deadline whose outcome cannot be known. Their callers receive nothing.
        sink_errors: Requests that the sink failed on without declaring it.
        stalled: No request got an outcome from the sink.
        splits: How often requests were halved to find one that the sink fails on.
        traced: Outcomes of each traced submission that is settled, by its position.
        dead_letters: Rejected requests without a reply address.
        kept_letters: Those of them that the sink keeps.
    """

    counts: Counter[str]
    records: int
    deliveries: list[Delivery]
    requeued: list[Requeued] = field(default_factory=list)
    unknown: list[int] = field(default_factory=list)
    sink_errors: int = 0
    stalled: bool = False
    splits: int = 0
    traced: dict[int, Counter[str]] = field(default_factory=dict)
    dead_letters: int = 0
    kept_letters: int = 0


@dataclass(slots=True)
class _Unit:
    """A submission of the batch: what is settled, requeued and confirmed together.

    Attributes:
        position: Of the submission in the batch.
        submission: What its shard accepted.
        requests: One, or the parcel's; none of a parcel whose content is invalid, or missing.
        outcomes: One for each request; None where it cannot be known.
        verdict: Of a parcel without requests: the outcome of the whole.
        missing: Why it is without its content.
        waits: Why it has to be retried as a whole; None if it is settled.
        in_doubt: Some of it may be committed.
    """

    position: int
    submission: Submission
    requests: list[WriteRequest] = field(default_factory=list)
    outcomes: list[Outcome | None] = field(default_factory=list)
    verdict: Outcome | None = None
    missing: Missing | None = None
    waits: str | None = None
    in_doubt: bool = False

    @property
    def settled(self) -> bool:
        """Whether there is an outcome for all of it."""
        known = bool(self.requests) or self.verdict is not None
        return known and self.waits is None and None not in self.outcomes

    @property
    def keys(self) -> set[str]:
        """Its keys: as it announces them, where its content is missing."""
        if not self.requests:
            return set(self.submission.keys)
        return {request.key for request in self.requests} - {""}

    @property
    def has_every_key(self) -> bool:
        """Nobody here knows its keys, but that they are many."""
        return not self.requests and self.submission.has_many_keys

    def is_late(self, now: float) -> bool:
        expires_at = self.submission.expires_at
        return expires_at is not None and expires_at <= now

    def count(self) -> Counter[str]:
        """Its requests by outcome."""
        if self.verdict is not None:
            return Counter({self.verdict.kind.value: self.submission.requests})
        return Counter(outcome.kind.value for outcome in self.outcomes if outcome is not None)

    def take(self, outcomes: Iterator[Outcome | None]) -> None:
        """Takes its outcomes from those of all; it waits if one of them is to be retried."""
        self.outcomes = [next(outcomes) for _ in self.requests]
        self._look_for_retries()

    def replace(self, index: int, outcome: Outcome | None) -> None:
        self.outcomes[index] = outcome
        self._look_for_retries()

    def _look_for_retries(self) -> None:
        for outcome in self.outcomes:
            if outcome is not None and outcome.kind is OutcomeKind.RETRY and self.waits is None:
                self.waits = outcome.reason or "the sink says so"
            if outcome is None or outcome.in_doubt or outcome.kind in _COMMITTED:
                self.in_doubt = True


_COMMITTED = {OutcomeKind.WRITTEN, OutcomeKind.DUPLICATE}


class _WaitingKeys:
    """Keys of what has to be retried: what comes later under one of them waits as well."""

    def __init__(self) -> None:
        self._keys: set[str] = set()
        self._every = False

    def add(self, unit: _Unit) -> None:
        self._keys |= unit.keys
        self._every |= unit.has_every_key

    def block(self, unit: _Unit) -> bool:
        if unit.has_every_key:
            return self._every or bool(self._keys)
        keys = unit.keys
        return bool(keys) and (self._every or not self._keys.isdisjoint(keys))


async def write_batch(
    sink: Sink,
    flush: FlushInput,
    submissions: Sequence[Submission],
    *,
    missing: Mapping[int, Missing] | None = None,
    traceparent: str | None = None,
    clock: Callable[[], float] = time.time,
    is_over: Callable[[], bool] = lambda: False,
) -> BatchResult:
    """Writes a batch through the sink. Needs no Temporal, so that a simulation can run what an activity runs.

    Args:
        sink: Where the rows go.
        flush: Which batch it is, and of which shard.
        submissions: What is in it.
        missing: Of parcels by reference without their content: why, by position.
        traceparent: The span of this flush, for callers that are traced.
        clock: Tells the time, in seconds since the epoch.
        is_over: Whether another attempt may have been started meanwhile. Then this one says nothing.

    Raises:
        ApplicationError: Of type ``SinkUnavailable``, with ``in_doubt`` as its detail.
    """
    without = missing or {}
    units = [
        _Unit(position, submission, missing=without[position])
        if position in without
        else _read(position, submission, flush.shard)
        for position, submission in enumerate(submissions)
    ]
    calls = SinkCalls(sink, flush)
    try:
        await _decide(calls, units, flush, clock)
        if is_over():
            # What it has not written itself, another attempt may have: without a fence nobody would have noticed.
            raise SinkUnavailable("the attempt took too long: another one may be under way", in_doubt=calls.in_doubt)
        letters = _without_reply(flush, units)
        kept_letters = await keep_dead_letters(sink, flush.batch_id, letters)
    except SinkUnavailable as err:
        raise unavailable(str(err), in_doubt=calls.in_doubt, ledger=sink.identity) from None
    counts = Counter(o.kind.value for unit in units if unit.settled for o in unit.outcomes if o is not None)
    for unit in units:
        if unit.verdict is not None:
            counts[unit.verdict.kind.value] += unit.submission.requests
    unknown = [unit for unit in units if unit.waits is None and not unit.settled]
    if unknown:
        ids = [unit.submission.id for unit in unknown]
        logger.error(
            "It is not known whether this is written, in batch %s: %s",
            flush.batch_id,
            named(ids),
            extra=about_requests(ids, batch_id=flush.batch_id),
        )
    return BatchResult(
        counts=counts,
        records=sum(len(request.records) for unit in units for request in unit.requests),
        deliveries=_deliveries(flush, units, datetime.fromtimestamp(clock(), UTC), traceparent),
        requeued=[
            Requeued(unit.position, unit.waits, unit.in_doubt, unread=unit.missing is not None)
            for unit in units
            if unit.waits is not None
        ],
        unknown=[unit.position for unit in unknown],
        sink_errors=calls.errors,
        stalled=not calls.answered,
        splits=calls.splits,
        traced={unit.position: unit.count() for unit in units if unit.submission.traceparent and unit.settled},
        dead_letters=len(letters),
        kept_letters=kept_letters,
    )


def _without_reply(flush: FlushInput, units: Sequence[_Unit]) -> list[DeadLetter]:
    """The rejected requests without a reply address."""
    return [
        DeadLetter(request, outcome, flush.batch_id)
        for unit in units
        if unit.waits is None and not unit.submission.replies
        for request, outcome in zip(unit.requests, unit.outcomes, strict=True)
        if outcome is not None and outcome.kind is OutcomeKind.REJECTED
    ]


def _read(position: int, submission: Submission, shard: int) -> _Unit:
    """A submission with its requests; rejected as a whole if it is a packed parcel that does not hold what it says.

    No attempt can have written such a parcel: each finds the same in it.
    """
    try:
        if not isinstance(submission.body, PackedParcel):
            return _Unit(position, submission, submission.write_requests())
        requests, announced = submission.write_requests(), submission.body.announced
        if announced.keys is None and announced.shards and not submission.doubtful:
            check_keys_of_shard(keys_of(requests), shard, announced.shards)
        return _Unit(position, submission, requests)
    except InvalidRequest as err:
        logger.warning("The parcel %r is rejected: %s", submission.id, err, extra=about_requests([submission.id]))
        return _Unit(position, submission, verdict=Outcome.rejected(err.code, str(err)))


def _decide_without_content(unit: _Unit, now: float) -> None:
    """What becomes of a parcel whose content the flush does not have.

    If somebody may have it later, it waits; at its deadline its shard lets it expire, unless it may be written. If it
    is gone forever, it is not written any more, and without its content nobody can say which requests were in it: where
    an attempt may have committed it, its outcome cannot be known. It is given up no sooner than at its deadline, until
    when such an attempt may still commit: what comes after it under its keys must not overtake it.
    """
    missing, submission = unit.missing, unit.submission
    if missing is None:
        return
    logger.warning(
        "The content of the parcel %r is not here: %s",
        submission.id,
        missing.reason,
        extra=about_requests([submission.id]),
    )
    if not missing.gone:
        unit.waits = f"the content of a parcel is not here: {missing.reason}"
    elif not submission.doubtful:
        unit.verdict = Outcome.rejected(RejectCode.CONTENT_GONE, f"the content of the parcel is gone: {missing.reason}")
    elif not unit.is_late(now) and not submission.withdrawn:
        unit.waits = f"it may be written, and its content is gone: {missing.reason}"


async def _decide(calls: SinkCalls, units: Sequence[_Unit], flush: FlushInput, clock: Callable[[], float]) -> None:
    """An outcome for each request: those past their deadline are not written, whatever the sink would answer."""
    now = clock()

    def is_dead(unit: _Unit) -> bool:
        # Without a fence an attempt in flight may still commit what was withdrawn, after a later request of its key:
        # then it is written as if it had not been withdrawn, and its key waits for it.
        return unit.is_late(now) or (unit.submission.withdrawn and calls.has_fence)

    for unit in units:
        _decide_without_content(unit, now)
    readable = [unit for unit in units if unit.requests]
    alive = [unit for unit in readable if not is_dead(unit)]
    dead = [unit for unit in readable if is_dead(unit)]
    # What was withdrawn comes first: an attempt in flight must not commit it after a later request of its key.
    withdrawn = [unit for unit in dead if unit.submission.withdrawn]
    await _fence_dead(calls, withdrawn, OutcomeKind.REJECTED)
    for unit in withdrawn:
        if None in unit.outcomes and not unit.is_late(now):
            unit.waits = "it was withdrawn, and the sink could not fence it"
    waiting = _WaitingKeys()
    for unit in dead:
        if unit.waits is not None:
            waiting.add(unit)
    decided = {unit.position for unit in dead}
    for unit in units:
        if unit.requests and unit.waits is None and unit.position not in decided and waiting.block(unit):
            unit.waits = "an earlier request of its key has to be retried"
        if unit.waits is not None:
            waiting.add(unit)
    alive = [unit for unit in alive if unit.waits is None]
    written = iter(await calls.write([request for unit in alive for request in unit.requests]))
    for unit in alive:
        unit.take(written)
    _keep_together(units)
    # Once a caller is notified, neither `expired` nor `rejected` may turn out otherwise: not by an attempt that is
    # under way, nor by the next one, should this one be lost after callers were notified. So the sink fences them.
    await _fence_rejected(calls, [unit for unit in alive if unit.waits is None])
    await _fence_dead(calls, [unit for unit in dead if not unit.submission.withdrawn], OutcomeKind.EXPIRED)
    _keep_together(units)
    _written_once([unit for unit in units if unit.waits is None], halved=flush.halved)
    for unit in units:
        _as_withdrawn(unit)


async def _fence_dead(calls: SinkCalls, units: Sequence[_Unit], fence_as: OutcomeKind) -> None:
    """What became of submissions that are not written any more."""
    requests = [request for unit in units for request in unit.requests]
    doubts = [unit.submission.doubtful for unit in units for _ in unit.requests]
    fenced = iter(await calls.fence(requests, doubts, fence_as=fence_as) if requests else [])
    for unit in units:
        unit.take(fenced)


def _as_withdrawn(unit: _Unit) -> None:
    """What was withdrawn before it came has no time left: unless it was written before, it is rejected."""
    if unit.submission.withdrawn:
        withdrawn = Outcome.rejected(RejectCode.WITHDRAWN, WITHDRAWN)
        gone = (OutcomeKind.EXPIRED, OutcomeKind.REJECTED)
        unit.outcomes = [withdrawn if o is not None and o.kind in gone else o for o in unit.outcomes]


def _keep_together(units: Sequence[_Unit]) -> None:
    """What shares a request id with something that is to be retried is retried with it.

    The ledger would take the second for an earlier attempt at the first, and both callers would receive `written`.
    """
    waiting = {request.request_id for unit in units if unit.waits is not None for request in unit.requests}
    found = bool(waiting)
    while found:
        found = False
        for unit in units:
            if unit.waits is None and unit.outcomes and not waiting.isdisjoint(r.request_id for r in unit.requests):
                unit.waits = "it shares a request id with a request that has to be retried"
                waiting |= {request.request_id for request in unit.requests}
                found = True


_FINAL = {RejectCode.INVALID, RejectCode.ID_REUSED}
"""Rejections that every later attempt would repeat; any other depends on what else the database holds."""


async def _fence_rejected(calls: SinkCalls, units: Sequence[_Unit]) -> None:
    """Makes rejections final. The sink knows those that an earlier attempt at this batch has made so.

    Where the sink has no fence and the request may be committed already, its own row may be what it conflicts with:
    such a request stays in doubt, and is retried until its deadline.
    """
    rejected: list[tuple[_Unit, int]] = []
    for unit in units:
        for index, outcome in enumerate(unit.outcomes):
            if outcome is not None and outcome.kind is OutcomeKind.REJECTED and outcome.code not in _FINAL:
                rejected.append((unit, index))
    requests = [unit.requests[index] for unit, index in rejected]
    doubts = [unit.submission.doubtful or unit.requests[index].request_id in calls.doubted for unit, index in rejected]
    known = await calls.fence(requests, doubts, fence_as=OutcomeKind.REJECTED)
    for (unit, index), outcome in zip(rejected, known, strict=True):
        if outcome is None:
            unit.replace(index, Outcome.retry("the sink could not make its rejection final", in_doubt=True))
        elif outcome.kind in (*_COMMITTED, OutcomeKind.RETRY):  # an earlier attempt got through, or it is not known yet
            unit.replace(index, outcome)


def _written_once(units: Sequence[_Unit], *, halved: bool) -> None:
    """An id twice in a batch: written, and then a duplicate. A sink that is asked in parts cannot see that.

    Nor is it known here what the other half of a batch holds: a parcel there may hold the id of a request here. So in
    a half no request of a parcel is confirmed as the first.
    """
    written: set[str] = set()
    for unit in units:
        if halved and unit.submission.is_parcel:
            unit.outcomes = [outcome and _as_duplicate(outcome) for outcome in unit.outcomes]
        for index, (request, outcome) in enumerate(zip(unit.requests, unit.outcomes, strict=True)):
            if outcome is None:  # unknown, but an earlier attempt may have answered it
                written.add(request.request_id)
            elif outcome.kind is OutcomeKind.WRITTEN:
                if request.request_id in written:
                    unit.outcomes[index] = _as_duplicate(outcome)
                written.add(request.request_id)


def _deliveries(
    flush: FlushInput, units: Sequence[_Unit], settled_at: datetime, traceparent: str | None
) -> list[Delivery]:
    """What each caller is to receive. The first of a submission has its outcome, those that joined a `duplicate`."""
    untraced = _Frame(flush.batch_id, sum(len(unit.requests) for unit in units), flush.shard, settled_at)
    traced = replace(untraced, traceparent=traceparent)
    deliveries: list[Delivery] = []
    for unit in units:
        frame = untraced if unit.submission.traceparent is None else traced
        if unit.settled and unit.verdict is not None:
            whole = frame.confirmation(unit.submission.id, unit.verdict)
            deliveries += [Delivery(reply_to, whole) for reply_to in unit.submission.replies]
        elif unit.settled:
            own = [outcome for outcome in unit.outcomes if outcome is not None]
            for rank, reply_to in enumerate(unit.submission.replies):
                outcomes = own if rank == 0 else [_as_duplicate(outcome) for outcome in own]
                deliveries.append(frame.delivery(reply_to, unit.submission, outcomes))
    return deliveries


@dataclass(frozen=True, slots=True)
class _Frame:
    """What every confirmation of a batch says alike."""

    batch_id: str
    batch_size: int
    shard: int
    settled_at: datetime
    traceparent: str | None = None

    def delivery(self, reply_to: ReplyTo, submission: Submission, outcomes: Sequence[Outcome]) -> Delivery:
        if submission.is_parcel:
            return Delivery(reply_to, receipt=self._receipt(outcomes))
        return Delivery(reply_to, self.confirmation(submission.id, outcomes[0]))

    def confirmation(self, request_id: str, outcome: Outcome) -> Confirmation:
        return Confirmation(
            request_id,
            outcome.kind,
            self.batch_id,
            self.batch_size,
            self.shard,
            self.settled_at,
            outcome.code,
            outcome.reason,
            None if outcome.returned is None else list(outcome.returned),
            self.traceparent,
        )

    def _receipt(self, outcomes: Sequence[Outcome]) -> ParcelReceipt:
        others = {
            str(i): replace(outcome, returned=None)
            for i, outcome in enumerate(outcomes)
            if outcome.kind is not OutcomeKind.WRITTEN
        }
        returned: dict[str, list[ReturnedRow | None]] = {}
        room, unread = MAX_MESSAGE_RETURNED, False
        for position, outcome in enumerate(outcomes):
            if outcome.returned is None:
                continue
            size = measure(outcome.returned)
            if size <= room:
                returned[str(position)] = list(outcome.returned)
                room -= size
            else:
                unread = True
        return ParcelReceipt(
            self.batch_id, self.batch_size, self.shard, self.settled_at, others, returned, unread, self.traceparent
        )


def _as_duplicate(outcome: Outcome) -> Outcome:
    return Outcome.duplicate(outcome.returned) if outcome.kind is OutcomeKind.WRITTEN else outcome
