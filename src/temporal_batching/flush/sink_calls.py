"""The calls of the sink in one attempt at a batch: what it returned, and what it may have left committed.

A sink states what became of a request by an `Outcome`, or by `SinkUnavailable`. Anything else that it raises or returns
says nothing about a request, which may be written nevertheless. The batch is then halved until the request is found
that the sink fails on, so that its neighbours are not affected.
"""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from temporal_batching.contract import OPERATIONS, FlushInput, Outcome, OutcomeKind, RejectCode, Trigger, WriteRequest
from temporal_batching.errors import InvalidRequest, SinkUnavailable
from temporal_batching.logs import about_requests, logger
from temporal_batching.policy import MAX_MESSAGE_RETURNED
from temporal_batching.sinks.base import Batch, Sink
from temporal_batching.sinks.returned import has_references, only_asked
from temporal_batching.wire.checks import measure

MAX_LOGGED = 5
"""How many requests one line of the log names."""

MAX_FRAMES = 8
"""Frames of a traceback in the log, the innermost."""


class SinkCalls:
    """One attempt's calls of a sink.

    Attributes:
        in_doubt: Whether anything of the batch may be committed by this attempt: the one place where that is derived.
            A `write` that returned may have committed, whatever it returned (even that a request is rejected); so
            may one that raised, unless it declares that it did not. A fence commits no rows: what it was asked about
            stays as much in doubt as before.
        answered: Whether any request got an outcome, other than that it is to be retried.
        errors: Requests that the sink failed on, or gave no valid outcome.
        splits: How often requests were halved to find one that the sink fails on.
        doubted: Ids of requests in a call that raised without declaring what it had committed, and that were then asked
            about in parts. That call may have committed them, whatever the parts return: `retry`, or `rejected`
            for a row that is there already.
        has_fence: Whether the sink has a `fence` of its own.
    """

    def __init__(self, sink: Sink, flush: FlushInput) -> None:
        self.in_doubt = False
        self.answered = False
        self.errors = 0
        self.splits = 0
        self.doubted: set[str] = set()
        self._sink = sink
        self._flush = flush
        self.has_fence = getattr(sink.fence, "__func__", None) is not Sink.fence
        self._fence_as = OutcomeKind.EXPIRED
        self._problems: dict[str, list[str]] = {}  # what went wrong, and with which requests

    async def write(self, requests: Sequence[WriteRequest]) -> list[Outcome]:
        """Writes requests, and returns the outcome of each; those that the sink fails on are to be retried, in doubt.

        Raises:
            SinkUnavailable: The sink takes no writes now. `in_doubt` says what may be committed.
        """
        outcomes = _refused(self._sink, requests)
        self.answered |= bool(outcomes)
        ready = [position for position in range(len(requests)) if position not in outcomes]
        await self._write_part(requests, ready, outcomes, set())
        self._log_problems()
        return [outcomes[position] for position in range(len(requests))]

    async def _write_part(
        self,
        requests: Sequence[WriteRequest],
        positions: Sequence[int],
        outcomes: dict[int, Outcome],
        waiting: set[str],
    ) -> None:
        ready = [position for position in positions if requests[position].key not in waiting]
        for position in positions:
            if requests[position].key in waiting:  # was in a call already, together with what failed
                outcomes[position] = Outcome.retry("an earlier request of its key has to be retried", in_doubt=True)
        if not ready:
            return
        answers = await self._ask("write", self._write_once, [requests[position] for position in ready])
        if answers is None and len(ready) > 1:
            self.doubted.update(requests[position].request_id for position in ready)
            self.splits += 1
            middle = len(ready) // 2
            await self._write_part(requests, ready[:middle], outcomes, waiting)
            await self._write_part(requests, ready[middle:], outcomes, waiting)
            return
        for position, answer in zip(ready, answers or [None], strict=True):
            outcome = answer or Outcome.retry("the sink failed on it", in_doubt=True)
            if outcome.kind is OutcomeKind.RETRY and requests[position].request_id in self.doubted:
                outcome = replace(outcome, in_doubt=True)
            outcomes[position] = outcome
            if outcomes[position].kind is OutcomeKind.RETRY and requests[position].key:
                waiting.add(requests[position].key)

    async def _write_once(self, batch: Batch) -> Any:
        try:
            answers = await self._sink.write(batch)
        except SinkUnavailable as err:
            self.in_doubt |= err.in_doubt
            raise
        except Exception:
            self.in_doubt = True
            raise
        self.in_doubt = True
        return answers

    async def fence(
        self,
        requests: Sequence[WriteRequest],
        in_doubt: Sequence[bool],
        *,
        fence_as: OutcomeKind = OutcomeKind.EXPIRED,
    ) -> list[Outcome | None]:
        """What became of requests that must not be written any more; the sink ensures that they never are.

        Args:
            requests: Past their deadline, or rejected.
            in_doubt: Of each, whether an earlier attempt may have committed it.
            fence_as: What their callers receive if they are not there; the ledger remembers it.

        Returns:
            An outcome for each, or None where it cannot be known: the sink fails on it, or it is in doubt and the sink
            has no `fence` of its own.

        Raises:
            SinkUnavailable: The sink cannot answer now.
        """
        if not self.has_fence:
            return [None if doubt else Outcome.expired() for doubt in in_doubt]
        outcomes: list[Outcome | None] = []
        self._fence_as = fence_as
        await self._fence_part(requests, outcomes)
        self._log_problems()
        return outcomes

    async def _fence_part(self, requests: Sequence[WriteRequest], outcomes: list[Outcome | None]) -> None:
        if not requests:
            return
        answers = await self._ask("fence", self._sink.fence, requests)
        if answers is None and len(requests) > 1:
            self.splits += 1
            middle = len(requests) // 2
            await self._fence_part(requests[:middle], outcomes)
            await self._fence_part(requests[middle:], outcomes)
            return
        outcomes += answers or [None]

    async def _ask(
        self, method: str, call: Callable[[Batch], Awaitable[Any]], requests: Sequence[WriteRequest]
    ) -> list[Outcome | None] | None:
        """The outcomes of a call, None for each invalid one; or None if they cannot be assigned to requests."""
        name = f"{type(self._sink).__name__}.{method}"
        try:
            answers = await call(self._batch(requests))
        except SinkUnavailable:
            raise
        except Exception as err:
            if len(requests) == 1:
                self._note(requests[0], f"{name} raised {without_values(err)}")
                one = requests[0].request_id
                logger.debug("The sink failed on %r: %s", one, err, extra=about_requests([one]))
            return None
        if not isinstance(answers, Sequence) or isinstance(answers, str):
            problem = f"{name} answered {type(answers).__name__} instead of outcomes"
        elif len(answers) != len(requests):
            problem = f"{name} answered {len(answers)} outcomes for {len(requests)} requests"
        else:
            return [self._outcome(request, answer, name) for request, answer in zip(requests, answers, strict=True)]
        if len(requests) == 1:
            self._note(requests[0], problem)
        return None

    def _outcome(self, request: WriteRequest, answer: Any, name: str) -> Outcome | None:
        if isinstance(answer, Outcome) and isinstance(answer.kind, OutcomeKind):
            self.answered |= answer.kind is not OutcomeKind.RETRY
            return answer if answer.returned is None else self._with_returned(request, answer, name)
        what = (
            f"an Outcome of kind {type(answer.kind).__name__}" if isinstance(answer, Outcome) else type(answer).__name__
        )
        self._note(request, f"{name} answered {what} where an Outcome belongs")
        return None

    def _with_returned(self, request: WriteRequest, answer: Outcome, name: str) -> Outcome:
        """The outcome with the columns that the request asks for; a duplicate's are those of the first request."""
        returned = answer.returned
        problem = _shape_fault(request, returned)
        if problem is None and returned is not None and answer.kind is OutcomeKind.WRITTEN:
            returned = only_asked(request.records, returned)
        problem = problem or _size_fault(returned)
        if problem is not None:
            self._note(request, f"{name} answered an Outcome with returned: {problem}")
            returned = None
        return replace(answer, returned=returned)

    def _batch(self, requests: Sequence[WriteRequest]) -> Batch:
        flush = self._flush
        return Batch(
            requests,
            id=flush.batch_id,
            shard=flush.shard,
            trigger=Trigger(flush.trigger),
            attempt=flush.attempt,
            fence_as=self._fence_as,
        )

    def _note(self, request: WriteRequest, problem: str) -> None:
        self.errors += 1
        self._problems.setdefault(problem, []).append(request.request_id)

    def _log_problems(self) -> None:
        problems, self._problems = self._problems, {}
        for problem, ids in problems.items():
            logger.error(
                "The sink gave no outcome for %s of batch %s: %s",
                named(ids),
                self._flush.batch_id,
                problem,
                extra=about_requests(ids, batch_id=self._flush.batch_id),
            )


def _refused(sink: Sink, requests: Sequence[WriteRequest]) -> dict[int, Outcome]:
    """Outcomes of requests that a sink would not understand, by position."""
    if sink.takes_references and set(OPERATIONS) <= set(sink.operations):
        return {}
    faults = {position: _not_understood(sink, request) for position, request in enumerate(requests)}
    return {position: Outcome.rejected(RejectCode.INVALID, fault) for position, fault in faults.items() if fault}


def _not_understood(sink: Sink, request: WriteRequest) -> str | None:
    for record in request.records:
        if record.operation not in sink.operations:
            return f"{record.table!r}: operation {record.operation}: this sink takes {', '.join(sink.operations)}"
    if not sink.takes_references and has_references(request.records):
        return "a value refers to an earlier record of the request, and this sink takes no references"
    return None


def _shape_fault(request: WriteRequest, returned: Any) -> str | None:
    """What is wrong with the form of what a sink returned, or None. The request is written all the same."""
    if not isinstance(returned, Sequence) or len(returned) != len(request.records):
        return f"one element is needed for each of the {len(request.records)} records"
    if not all(row is None or isinstance(row, Mapping) for row in returned):
        return "each element is a mapping of columns, or None"
    return None


def _size_fault(returned: Any) -> str | None:
    """Why it cannot be sent to a caller, or None."""
    try:
        size = measure(returned)
    except InvalidRequest as err:
        return str(err)
    return f"{size:,} bytes: at most {MAX_MESSAGE_RETURNED:,}" if size > MAX_MESSAGE_RETURNED else None


def named(request_ids: Sequence[str]) -> str:
    """Some of the ids, and the number of the others."""
    some = ", ".join(repr(request_id) for request_id in request_ids[:MAX_LOGGED])
    return some + (f" and {len(request_ids) - MAX_LOGGED} more" if len(request_ids) > MAX_LOGGED else "")


def without_values(err: BaseException) -> str:
    """An exception by its type and the frames it came through. Its text may quote the values of a record."""
    frames = traceback.extract_tb(err.__traceback__)[-MAX_FRAMES:]
    return f"{type(err).__qualname__} at " + " < ".join(
        f"{f.filename}:{f.lineno} in {f.name}" for f in reversed(frames)
    )
