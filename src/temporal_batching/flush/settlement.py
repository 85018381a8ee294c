"""What becomes of a batch: written through the sink, an outcome for every request, an answer for every caller.

Needs no Temporal server, so that a simulation can run what the activity runs.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from temporalio import activity
from temporalio.exceptions import ApplicationError

from temporal_batching.contract import (
    FlushInput,
    JsonObject,
    Outcome,
    OutcomeKind,
    RejectCode,
    Trigger,
    WriteRequest,
)
from temporal_batching.errors import ErrorType, InvalidRequest, SinkError, SinkUnavailable
from temporal_batching.flush.delivery import Answer
from temporal_batching.sinks.base import Batch, Sink
from temporal_batching.sinks.dead_letters import DeadLetter
from temporal_batching.wire.submission import WITHDRAWN, read_requests

MAX_LOGGED = 5
"""Of the rejected requests in a batch that nobody waits for, as many are named in the log."""


def unavailable(problem: str, *, in_doubt: bool) -> ApplicationError:
    return ApplicationError(problem, in_doubt, type=ErrorType.SINK_UNAVAILABLE, non_retryable=True)


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a batch: requests by outcome, records in it, and who is to be told."""

    counts: Counter[str]
    records: int
    answers: list[Answer]


async def settle(sink: Sink, flush: FlushInput, *, clock: Callable[[], float] = time.time) -> Settled:
    """Writes a batch through the sink. Needs no Temporal, so that a simulation can run what an activity runs.

    Raises:
        ApplicationError: Of type ``SinkUnavailable``, with ``in_doubt`` as its detail.
        ValueError: The flush comes without its entries.
    """
    if flush.entries is None:
        raise ValueError("a flush is settled with its entries")
    parcels = [_requests_of(entry) for entry in flush.entries]
    requests = [request for parcel in parcels for request in parcel]
    try:
        outcomes = await _outcomes(sink, flush, requests, clock)
    except SinkUnavailable as err:
        raise unavailable(str(err), in_doubt=err.in_doubt) from None
    outcomes = _as_withdrawn(flush.entries, parcels, outcomes)
    try:
        await _keep_dead_letters(sink, flush.batch_id, _unheard(flush, parcels, outcomes))
    except SinkUnavailable as err:
        # Something of it may be committed, if only that a request is rejected.
        raise unavailable(str(err), in_doubt=True) from None
    counts = Counter(outcome.kind.value for outcome in outcomes)
    unreadable = sum(entry["holds"][0] for entry, parcel in zip(flush.entries, parcels, strict=True) if not parcel)
    if unreadable:
        counts[OutcomeKind.REJECTED.value] += unreadable
    return Settled(
        counts=counts,
        records=sum(len(request.records) for request in requests),
        answers=_answers(flush, flush.entries, parcels, outcomes, datetime.fromtimestamp(clock(), UTC)),
    )


def _as_withdrawn(
    entries: Sequence[JsonObject], parcels: Sequence[Sequence[WriteRequest]], outcomes: Sequence[Outcome]
) -> list[Outcome]:
    """What was withdrawn before it came has no time left: unless it was written before, it is rejected."""
    withdrawn = [entry.get("withdrawn") is True for entry, parcel in zip(entries, parcels, strict=True) for _ in parcel]
    return [
        Outcome.rejected(RejectCode.WITHDRAWN, WITHDRAWN) if gone and outcome.kind is OutcomeKind.EXPIRED else outcome
        for gone, outcome in zip(withdrawn, outcomes, strict=True)
    ]


def _unheard(
    flush: FlushInput, parcels: Sequence[Sequence[WriteRequest]], outcomes: Sequence[Outcome]
) -> list[DeadLetter]:
    """The rejected requests that nobody waits for."""
    rest = iter(outcomes)
    letters: list[DeadLetter] = []
    for entry, parcel in zip(flush.entries or [], parcels, strict=True):
        for request in parcel:
            outcome = next(rest)
            if outcome.kind is OutcomeKind.REJECTED and not entry["reply_to"]:
                letters.append(DeadLetter(request, outcome, flush.batch_id))
    return letters


async def _keep_dead_letters(sink: Sink, batch_id: str, letters: Sequence[DeadLetter]) -> None:
    """Before anybody is told anything: an attempt that is lost here is made again."""
    if not letters:
        return
    try:
        kept = "kept as dead letters" if await sink.keep_dead_letters(letters) else "gone, for the sink keeps none"
    except SinkUnavailable:
        raise
    except SinkError as err:  # neighbours do not wait for what will not be better next time
        kept = f"gone: {err}"
    except Exception as err:
        if len(letters) > 1:  # some letter is to blame
            for letter in letters:
                await _keep_dead_letters(sink, batch_id, [letter])
            return
        kept = f"gone: {type(err).__name__}"
    # Without their reasons: a database quotes values in them.
    some = ", ".join(f"{letter.request.request_id!r} ({letter.outcome.code})" for letter in letters[:MAX_LOGGED])
    more = f" and {len(letters) - MAX_LOGGED} more" if len(letters) > MAX_LOGGED else ""
    activity.logger.warning("Rejected in batch %s, and nobody waits for it: %s%s; %s", batch_id, some, more, kept)


def _requests_of(entry: JsonObject) -> list[WriteRequest]:
    """The requests of an entry; none of a packed parcel that does not hold what it says, whoever sent it."""
    try:
        return read_requests(entry, entry.get("expires_at"))
    except InvalidRequest as err:
        activity.logger.warning("A parcel is rejected: %s", err)
        return []


async def _outcomes(
    sink: Sink, flush: FlushInput, requests: Sequence[WriteRequest], clock: Callable[[], float]
) -> list[Outcome]:
    """An outcome for each request: those past their deadline are not written, whatever the sink would do."""
    now = clock()
    late = [_is_late(request, now) for request in requests]
    alive = [request for request, is_late in zip(requests, late, strict=True) if not is_late]
    dead = [request for request, is_late in zip(requests, late, strict=True) if is_late]
    written = await _write(sink, flush, alive)
    try:
        # Once told, neither `expired` nor `rejected` may turn out otherwise: not by an attempt that is still under way,
        # nor by the next one, should this one be lost after its callers were told. So the sink shuts the door first.
        alive_outcomes = iter(await _shut_out_rejected(sink, flush, alive, written, clock))
        dead_outcomes = iter(await sink.settle(_batch(flush, dead)) if dead else [])
    except SinkUnavailable as err:
        raise SinkUnavailable(str(err), in_doubt=bool(alive)) from None
    return _written_once(requests, [next(dead_outcomes if is_late else alive_outcomes) for is_late in late])


def _is_late(request: WriteRequest, now: float) -> bool:
    return request.expires_at is not None and request.expires_at <= now


_FINAL = {RejectCode.INVALID, RejectCode.ID_REUSED}
"""Rejections that every later attempt would repeat; any other depends on what else the database holds."""


async def _shut_out_rejected(
    sink: Sink,
    flush: FlushInput,
    requests: Sequence[WriteRequest],
    outcomes: Sequence[Outcome],
    clock: Callable[[], float],
) -> list[Outcome]:
    """Makes rejections final, and finds those that an earlier attempt at this batch has made so."""
    final = list(outcomes)
    rejected: list[int] = []
    for position, (request, outcome) in enumerate(zip(requests, outcomes, strict=True)):
        if outcome.kind is OutcomeKind.REJECTED and outcome.code not in _FINAL:
            rejected.append(position)
        elif outcome.kind is OutcomeKind.EXPIRED and not _is_late(request, clock()):
            final[position] = Outcome.rejected(RejectCode.DATABASE, "refused in an earlier attempt at its batch")
    if rejected:
        known = await sink.settle(_batch(flush, [requests[position] for position in rejected]))
        for position, outcome in zip(rejected, known, strict=True):
            if outcome.kind in (OutcomeKind.WRITTEN, OutcomeKind.DUPLICATE):  # an earlier attempt got through
                final[position] = outcome
    return final


def _written_once(requests: Sequence[WriteRequest], outcomes: Sequence[Outcome]) -> list[Outcome]:
    """An id twice in a batch: written, and then a duplicate. A sink that is asked in parts cannot see that."""
    written: set[str] = set()
    once = []
    for request, outcome in zip(requests, outcomes, strict=True):
        repeated = outcome.kind is OutcomeKind.WRITTEN and request.request_id in written
        once.append(Outcome.duplicate() if repeated else outcome)
        if outcome.kind is OutcomeKind.WRITTEN:
            written.add(request.request_id)
    return once


async def _write(sink: Sink, flush: FlushInput, requests: Sequence[WriteRequest]) -> Sequence[Outcome]:
    """Writes through the sink; if the sink itself breaks on a request, halves the batch until it is found.

    Our own sinks isolate a bad request and answer for it. This is for a sink that raises instead.
    """
    if not requests:
        return []
    try:
        outcomes = await sink.write(_batch(flush, requests))
    except SinkUnavailable:
        raise
    except Exception as err:
        if len(requests) == 1:
            activity.logger.warning("The sink failed on a request with %s", type(err).__name__)
            return [Outcome.rejected(RejectCode.DATABASE, f"the sink failed: {type(err).__name__}: {err}")]
        half = len(requests) // 2
        try:
            return [*await _write(sink, flush, requests[:half]), *await _write(sink, flush, requests[half:])]
        except SinkUnavailable as unavailable:
            # Whatever it knows of its last part, another may be committed already.
            raise SinkUnavailable(str(unavailable), in_doubt=True) from None
    if len(outcomes) != len(requests):
        raise SinkUnavailable(
            f"{type(sink).__name__}.write answered {len(outcomes)} outcomes for {len(requests)} requests"
        )
    return outcomes


def _batch(flush: FlushInput, requests: Sequence[WriteRequest]) -> Batch:
    return Batch(requests, id=flush.batch_id, shard=flush.shard, trigger=Trigger(flush.trigger))


def _answers(
    flush: FlushInput,
    entries: Sequence[JsonObject],
    requests: Sequence[Sequence[WriteRequest]],
    outcomes: Sequence[Outcome],
    settled_at: datetime,
) -> list[Answer]:
    """Who is to be told what. The first caller of an entry has its outcome, whoever joined later a `duplicate`."""
    frame = {
        "batch_id": flush.batch_id,
        "batch_size": len(outcomes),
        "shard": flush.shard,
        "settled_at": settled_at.isoformat(),
    }
    answers: list[Answer] = []
    rest = iter(outcomes)
    for entry, parcel in zip(entries, requests, strict=True):
        own = [next(rest) for _ in parcel]
        for rank, reply in enumerate(entry["reply_to"]):
            told = own if rank == 0 else [_second_hand(outcome) for outcome in own]
            if not told:
                body = _confirmation(frame, entry["request_id"], _UNREADABLE)
            elif "requests" in entry or "packed" in entry:
                body = _receipt(frame, told)
            else:
                body = _confirmation(frame, entry["request_id"], told[0])
            answers.append(Answer(reply, body))
    return answers


_UNREADABLE = Outcome.rejected(RejectCode.INVALID, "a packed parcel does not hold what it says")


def _confirmation(frame: JsonObject, request_id: str, outcome: Outcome) -> JsonObject:
    told = {"request_id": request_id, "outcome": outcome.kind, **frame}
    return told if outcome.code is None else {**told, "code": outcome.code, "reason": outcome.reason}


def _receipt(frame: JsonObject, outcomes: Sequence[Outcome]) -> JsonObject:
    others = {str(i): outcome for i, outcome in enumerate(outcomes) if outcome.kind is not OutcomeKind.WRITTEN}
    return {**frame, "others": others}


def _second_hand(outcome: Outcome) -> Outcome:
    return Outcome.duplicate() if outcome.kind is OutcomeKind.WRITTEN else outcome
