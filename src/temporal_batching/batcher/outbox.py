"""Deliveries that no flush has made yet, and which activities were notified lately. A part of the `Buffer`, as pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from temporal_batching.contract import Delivery, ReplyTo
from temporal_batching.wire.checks import measure
from temporal_batching.wire.deliveries import delivery_to_wire
from temporal_batching.wire.submission import Submission

MAX_DELIVERIES = 5
"""Attempts at one delivery, each with the client's own retries inside."""

OUTBOX_PART = 200
"""Deliveries that one activity takes at a time."""

PART_BYTES = 262_144
"""Bytes that one activity takes at a time, but for a larger first delivery: they are one payload, of 2 MiB at most."""

MAX_REFUSALS_BYTES = 262_144
"""Of deliveries for what was not accepted, which no other limit bounds: about a thousand. They are carried over, and
must not keep a run from ending; a quarter of `CARRY_LIMIT_BYTES`."""

MAX_NOTIFIED = 2_000
"""Activities that were notified lately: one more attempt of theirs may still be on its way. Not carried over."""


@dataclass(slots=True)
class QueuedDelivery:
    """A delivery that waits.

    Attributes:
        delivery: What is to be delivered.
        attempts: How often that failed.
        refusal: It is about a request that was not accepted.
        size: What it weighs as JSON, about.
    """

    delivery: Delivery
    attempts: int = 0
    refusal: bool = False
    size: int = 0

    def __post_init__(self) -> None:
        self.size = self.size or measure_delivery(self.delivery)


class Outbox:
    """Makes every delivery, with retries, a part of them at a time.

    Attributes:
        undelivered: Deliveries given up.
        bytes: What `queued` weighs as JSON, about.
    """

    def __init__(self) -> None:
        self.undelivered = 0
        self.bytes = 0
        self._queue: list[QueuedDelivery] = []
        self._refusals_bytes = 0
        self._in_delivery = 0
        self._waiting: set[ReplyTo] = set()  # activities whose delivery is here
        self._notified: dict[ReplyTo, None] = {}  # activities that had theirs, oldest first

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def queued(self) -> list[QueuedDelivery]:
        """All that wait, in their order."""
        return list(self._queue)

    @property
    def unanswered(self) -> int:
        """Activities whose delivery waits."""
        return len(self._waiting)

    @property
    def notified(self) -> int:
        """Activities that were notified lately."""
        return len(self._notified)

    @property
    def in_delivery(self) -> int:
        return self._in_delivery

    def add(self, delivery: Delivery, *, attempts: int = 0) -> None:
        """Takes a delivery for an accepted request: it is made, or given up after `MAX_DELIVERIES` attempts."""
        self.restore(QueuedDelivery(delivery, attempts))

    def add_refusal(self, deliveries: Sequence[Delivery]) -> bool:
        """Takes the deliveries for what was not accepted. Returns whether there was room; else they are given up."""
        queued = [QueuedDelivery(delivery, refusal=True) for delivery in deliveries]
        if self._refusals_bytes + sum(one.size for one in queued) > MAX_REFUSALS_BYTES:
            self.undelivered += len(queued)
            return False
        for one in queued:
            self.restore(one)
        return True

    def restore(self, queued: QueuedDelivery) -> None:
        """Takes a delivery as it was queued before."""
        self._queue.append(queued)
        self.bytes += queued.size
        self._refusals_bytes += queued.size if queued.refusal else 0
        if queued.delivery.reply_to.by_activity:
            self._waiting.add(queued.delivery.reply_to)

    def has_answered(self, submission: Submission) -> bool:
        """Whether this very activity was notified, or its delivery waits here: a second one could contradict it.

        Only for activities, each of which asks once: a workflow may have been notified, and have asked again.
        """
        replies = submission.replies
        return bool(replies) and all(reply in self._waiting or reply in self._notified for reply in replies)

    def note_notified(self, replies: Iterable[ReplyTo], *, but: Collection[ReplyTo] = ()) -> None:
        """Remembers activities that were notified, but for those whose delivery waits here, and the unreached."""
        unreached = set(but)
        for reply in replies:
            if reply.by_activity and reply not in self._waiting and reply not in unreached:
                self._notified[reply] = None
        while len(self._notified) > MAX_NOTIFIED:
            del self._notified[next(iter(self._notified))]

    def next_deliveries(self) -> list[Delivery]:
        """What to deliver now; empty while deliveries are in progress. `delivered` ends them."""
        if self._in_delivery:
            return []
        weights = accumulate(queued.size for queued in self._queue[:OUTBOX_PART])
        fitting = sum(weight <= PART_BYTES for weight in weights)
        part = self._queue[: max(1, fitting)]
        self._in_delivery = len(part)
        return [queued.delivery for queued in part]

    def delivered(self, failed: Sequence[int], unreached: Collection[ReplyTo] = ()) -> None:
        """Ends the deliveries in progress.

        Args:
            failed: Positions to retry, until `MAX_DELIVERIES` attempts are spent.
            unreached: Addresses that ask again, if they are still there.
        """
        part, self._queue = self._queue[: self._in_delivery], self._queue[self._in_delivery :]
        self._in_delivery = 0
        for queued in part:
            self.bytes -= queued.size
            self._refusals_bytes -= queued.size if queued.refusal else 0
            self._waiting.discard(queued.delivery.reply_to)
        for position in failed:
            queued = part[position]
            queued.attempts += 1
            if queued.attempts < MAX_DELIVERIES:
                self.restore(queued)
            else:
                self.undelivered += 1
        not_notified = set(failed)
        notified = (queued.delivery.reply_to for i, queued in enumerate(part) if i not in not_notified)
        self.note_notified(notified, but=unreached)


def measure_delivery(delivery: Delivery) -> int:
    """Bytes of a delivery as JSON, about."""
    return measure(delivery_to_wire(delivery)) + 1
