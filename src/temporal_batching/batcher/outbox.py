"""Answers that no flush has delivered yet, and who was told lately. A part of the `Buffer`, as pure as it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate

from temporal_batching.contract import JsonObject
from temporal_batching.wire.submission import Submission, measure

MAX_DELIVERIES = 5
"""Attempts to deliver one answer, each with the client's own retries inside."""

OUTBOX_PART = 200
"""Answers that one delivery takes at a time."""

PART_BYTES = 262_144
"""Bytes that one delivery takes at a time, but for a larger first answer: it is one payload, of 2 MiB at most."""

MAX_REFUSALS_BYTES = 262_144
"""Of answers for what was not accepted, which no other limit bounds: about a thousand. They are carried over, and must
not keep a run from ending; a quarter of `CARRY_LIMIT_BYTES`."""

MAX_REMEMBERED_ANSWERS = 2_000
"""Activities that were told lately: one more attempt of theirs may still be on its way. Not carried over."""


class Outbox:
    """Delivers every answer, with retries, one delivery at a time.

    Attributes:
        undelivered: Answers given up.
        bytes: What `carry` weighs as JSON, about.
    """

    def __init__(self) -> None:
        self.undelivered = 0
        self.bytes = 0
        self._answers: list[JsonObject] = []
        self._sizes: list[int] = []  # of the answers, in their order
        self._refusals_bytes = 0
        self._in_delivery = 0
        self._waiting: set[tuple[str | None, ...]] = set()  # activities whose answer is here
        self._notified: dict[tuple[str | None, ...], None] = {}  # activities that had theirs, oldest first

    def __len__(self) -> int:
        return len(self._answers)

    @property
    def in_delivery(self) -> int:
        return self._in_delivery

    def add(self, answer: JsonObject) -> None:
        """Takes an answer for an accepted request: it is delivered, or given up after `MAX_DELIVERIES` attempts."""
        size = measure(answer) + 1
        self._answers.append(answer)
        self._sizes.append(size)
        self.bytes += size
        self._refusals_bytes += size if answer.get("refusal") else 0
        self._waiting.update(_activity(reply) for reply in answer["reply_to"] if "activity_id" in reply)

    def add_refusal(self, answer: JsonObject) -> bool:
        """Takes an answer for what was not accepted. Returns whether there was room; else it is given up."""
        if self._refusals_bytes + measure(answer) > MAX_REFUSALS_BYTES:
            self.undelivered += 1
            return False
        self.add({**answer, "refusal": True})
        return True

    def has_answered(self, submission: Submission) -> bool:
        """Whether this very activity was told, or its answer waits here: a second one could contradict it.

        Only for activities, each of which asks once: a workflow may have had its answer, and have asked again.
        """
        addresses = [_activity(reply) for reply in submission.replies]
        return bool(addresses) and all(address in self._waiting or address in self._notified for address in addresses)

    def note_notified(self, replies: Iterable[JsonObject], *, but: Iterable[JsonObject] = ()) -> None:
        """Remembers activities that were told, but for those whose answer waits here, and the unreached."""
        unreached = set(map(_activity, but))
        for reply in replies:
            address = _activity(reply)
            if "activity_id" in reply and address not in self._waiting and address not in unreached:
                self._notified[address] = None
        while len(self._notified) > MAX_REMEMBERED_ANSWERS:
            del self._notified[next(iter(self._notified))]

    def next_deliveries(self) -> list[JsonObject]:
        """The answers to deliver now; empty while a delivery is under way. `delivered` ends it."""
        if self._in_delivery:
            return []
        weights = accumulate(self._sizes[:OUTBOX_PART])
        fitting = sum(weight <= PART_BYTES for weight in weights)
        part = self._answers[: max(1, fitting)]
        self._in_delivery = len(part)
        return [{"reply_to": answer["reply_to"], "confirmation": answer["confirmation"]} for answer in part]

    def delivered(self, failed: Sequence[int], unreached: Sequence[JsonObject] = ()) -> None:
        """Ends the delivery.

        Args:
            failed: Positions to try again, until `MAX_DELIVERIES` attempts are spent.
            unreached: Addresses that ask again, if they are still there.
        """
        part, self._answers = self._answers[: self._in_delivery], self._answers[self._in_delivery :]
        sizes, self._sizes = self._sizes[: self._in_delivery], self._sizes[self._in_delivery :]
        self.bytes -= sum(sizes)
        self._in_delivery = 0
        for answer, size in zip(part, sizes, strict=True):
            self._refusals_bytes -= size if answer.get("refusal") else 0
            self._waiting.difference_update(map(_activity, answer["reply_to"]))
        retried = [{**part[i], "attempts": part[i].get("attempts", 0) + 1} for i in failed]
        kept = [answer for answer in retried if answer["attempts"] < MAX_DELIVERIES]
        self.undelivered += len(retried) - len(kept)
        for answer in kept:
            self.add(answer)
        not_told = set(failed)
        told = (reply for i, answer in enumerate(part) if i not in not_told for reply in answer["reply_to"])
        self.note_notified(told, but=unreached)

    def carry(self) -> list[JsonObject]:
        return self._answers


def _activity(reply: JsonObject) -> tuple[str | None, ...]:
    return reply.get("workflow_id"), reply.get("run_id"), reply.get("activity_id")
