"""Signals, from their arrival until they are read into the buffer. As pure as the buffer.

A sender that may signal a shard may send anything. Each signal is read, refused or dropped here, and what it leaves
behind is bounded (``tests/unit/batcher/test_carried_state.py``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from temporalio.common import RawValue

from temporal_batching.batcher.buffer import Buffer
from temporal_batching.batcher.limits import BufferFull
from temporal_batching.contract import SIGNAL_ADD, SIGNAL_WITHDRAW, RejectCode, ReplyTo
from temporal_batching.errors import InvalidRequest
from temporal_batching.wire.addresses import read_replies, read_withdrawal
from temporal_batching.wire.checks import MAX_NAME
from temporal_batching.wire.parcels import ParcelReference
from temporal_batching.wire.submission import read_submission

SIGNALS_AT_ONCE = 2_000
SIGNAL_BYTES_AT_ONCE = 1_048_576
"""What is read in one activation, about 0.1 s of CPU; the rest in the next. A larger signal is read by itself."""

MAX_PROBLEMS = 5
"""Of the mistakes in one portion, as many are logged; the others are counted."""


class SignalQueue:
    """Keeps signals as they came, and reads them in order, a portion at a time.

    Attributes:
        malformed: Signals, and requests in them, that could not be read.
    """

    def __init__(self, buffer: Buffer) -> None:
        self.malformed = 0
        self._buffer = buffer
        self._unread: deque[tuple[float, str, Sequence[RawValue]]] = deque()  # when it came, its name, what it brings
        self._problems: list[str] = []
        self._stirred = False

    def __len__(self) -> int:
        return len(self._unread)

    def receive(self, name: str, args: Sequence[RawValue], now: float) -> None:
        self._unread.append((now, name, args))

    def read(self, now: float, decode: Callable[[RawValue], Any], *, closed: str | None = None) -> bool:
        """Reads a portion of what came.

        Args:
            now: Seconds since the epoch.
            decode: Makes a value of a payload; may raise anything.
            closed: Why no request is accepted, if none is.

        Returns:
            Whether anything but a request was in it.
        """
        self._stirred = False
        for _ in range(self._portion()):
            came_at, name, args = self._unread.popleft()
            self._read_one(name, args, now, decode, waited=now - came_at, closed=closed)
        return self._stirred

    def take_problems(self) -> tuple[list[str], int]:
        """What was wrong with what was read since the last call: some, and how many more there were."""
        problems, self._problems = self._problems, []
        return problems[:MAX_PROBLEMS], max(0, len(problems) - MAX_PROBLEMS)

    def _portion(self) -> int:
        count = size = 0
        for _, _, args in self._unread:
            size += sum(len(value.payload.data) for value in args)
            if count and (count >= SIGNALS_AT_ONCE or size > SIGNAL_BYTES_AT_ONCE):
                return count
            count += 1
        return count

    def _read_one(
        self,
        name: str,
        raw: Sequence[RawValue],
        now: float,
        decode: Callable[[RawValue], Any],
        *,
        waited: float,
        closed: str | None,
    ) -> None:
        if name not in (SIGNAL_ADD, SIGNAL_WITHDRAW):
            self._reject(f"there is no signal {name[:80]!r}")
            return
        try:
            args = [decode(value) for value in raw]
        except Exception as err:  # of any kind: the sender's mistake must not stop the shard
            self._reject(f"{name} that cannot be decoded: {type(err).__name__}")
            return
        if name == SIGNAL_ADD:
            for wire in args[0] if args and isinstance(args[0], list) else args:
                self._add(wire, now, waited=waited, closed=closed)
        else:
            self._withdraw(args, now)

    def _withdraw(self, args: Sequence[Any], now: float) -> None:
        try:
            withdrawal = read_withdrawal(args)
        except InvalidRequest as err:
            self._reject(str(err))
            return
        self._buffer.withdraw(withdrawal, now)
        self._stirred = True

    def _add(self, wire: Any, now: float, *, waited: float, closed: str | None) -> None:
        """Accepts one request; what is wrong with it is confirmed to its sender as `rejected`."""
        try:
            submission = read_submission(wire)
            if isinstance(submission.body, ParcelReference):
                raise InvalidRequest("only a gateway refers to the content of a parcel: a signal brings its own")
            if any(reply.by_activity for reply in submission.replies):
                raise InvalidRequest("reply_to.activity_id is for gateways alone: a signal is answered by signal")
        except InvalidRequest as err:
            self._reject(str(err))
            self._notify_sender(wire, err)
            return
        submission.waited = waited
        try:
            if closed is not None:
                raise BufferFull(closed)
            self._buffer.accept(submission, now)
        except InvalidRequest as err:
            self._buffer.refuse(submission, err.code, str(err))
        except BufferFull as err:
            self._buffer.refuse(submission, RejectCode.OVERLOADED, str(err))

    def _notify_sender(self, wire: Any, err: InvalidRequest) -> None:
        """Answers a request that cannot be read but says who sent it: by signal, never an activity."""
        try:
            replies = [r for r in map(_by_signal, read_replies(wire.get("reply_to"))) if r is not None]
            request_id = wire.get("request_id")
        except (InvalidRequest, AttributeError):
            return
        if replies and isinstance(request_id, str) and len(request_id) <= MAX_NAME:
            self._buffer.refuse_unread(request_id, replies, err.code, str(err))

    def _reject(self, problem: str) -> None:
        self.malformed += 1
        self._problems.append(problem)
        self._stirred = True


def _by_signal(reply: ReplyTo) -> ReplyTo | None:
    """The address of the workflow in a reply address; None if it names none."""
    return ReplyTo(reply.workflow_id, from_run_id=reply.from_run_id) if reply.workflow_id is not None else None
