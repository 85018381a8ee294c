"""What the property tests send to a buffer and expect of it: its submissions, and its batches."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import strategies as st

from temporal_batching.batcher.batches import PendingBatch
from temporal_batching.batcher.buffer import Buffer
from temporal_batching.contract import Delivery, ReplyTo
from temporal_batching.wire.parcels import Parcel, ParcelSource
from temporal_batching.wire.submission import Submission, envelope_bytes, read_submission

PARCEL_KEYS = ["shared", "a", "", "b"]
"""Of a parcel's requests: it has the keys of others among them."""

NAMES = ["a", "b", "c", "d", "e", "f"]
LIMITS: dict[str, Any] = {
    "linger": st.sampled_from([0.0, 5.0, 60.0]),
    "max_batch_size": st.sampled_from([1, 3, 10]),
    "max_batch_records": st.sampled_from([1, 4, 12]),
    "max_in_flight": st.sampled_from([1, 2, 4]),
    "max_pending": st.sampled_from([3, 20]),
}

CALLERS = [*(f"v{n}" for n in range(6)), "s1", "s2"]


def address(caller: str, name: str) -> ReplyTo:
    """Callers named `s…` wait for a signal, all others in an activity, one for each request."""
    return ReplyTo(caller) if caller.startswith("s") else ReplyTo(caller, activity_id=name)


def addressee(delivery: Delivery) -> tuple[str, str]:
    """The request that a delivery is about, and the workflow that receives it."""
    assert delivery.confirmation is not None
    return delivery.confirmation.request_id, str(delivery.reply_to.workflow_id)


def make_entry(
    name: str, caller: str, *, n: int, records: int, size: int, key: str, expires_at: float | None, resubmitted: bool
) -> Submission:
    values = {"n": n, "text": "x" * size}
    wire = {"request_id": name, "key": key, "records": [{"table": "t", "values": values}] * records}
    return read_submission(
        {**wire, "expires_at": expires_at, "reply_to": address(caller, name).to_wire(), "resubmitted": resubmitted}
    )


def make_parcel(name: str, caller: str, *, requests: int, n: int, expires_at: float | None) -> Submission:
    records = [{"table": "t", "values": {"n": n}}]
    body = [{"request_id": f"{name}/{i}", "key": PARCEL_KEYS[i], "records": records} for i in range(requests)]
    submission = read_submission(
        {"request_id": name, "requests": body, "expires_at": expires_at, "reply_to": address(caller, name).to_wire()}
    )
    if requests % 2 == 0 or not isinstance(submission.body, Parcel):
        return submission
    # The others as a program's: by reference.
    packed = replace(submission, body=submission.body.pack(submission.size - envelope_bytes(submission.replies)))
    return packed.by_reference(ParcelSource(name, "run"))


FATES = ["written", "duplicate", "rejected", "expired", "unknown", "retry", "retry", "retry in doubt"]


@dataclass(eq=False)
class Ticket:
    """A submission that the buffer took in."""

    number: int
    name: str
    keys: tuple[str, ...]
    content: Any
    requests: int
    records: int
    arrived: float
    deadline: float
    callers: list[str]
    resubmitted: bool = False
    in_doubt: bool = False
    outcomes: list[str] = field(default_factory=list)
    taken_back: bool = False
    """Withdrawn by all its callers while it was in flight."""

    def loses(self, caller: str | None) -> bool:
        """Has a caller stop waiting, or all of them. Returns whether none is left."""
        others = [c for c in self.callers if c != caller]
        if caller is None or not others:
            return True
        self.callers = others
        return False


@dataclass(eq=False)
class Flight:
    batch: PendingBatch
    tickets: list[Ticket]

    @property
    def in_doubt(self) -> bool:
        return any(ticket.resubmitted or ticket.in_doubt for ticket in self.tickets)


def acts(buffer: Buffer, at: float) -> bool:
    """Whether a buffer would let something expire or start a batch at a time."""
    probe = copy.deepcopy(buffer)
    before = (probe.counts.outcomes.total(), probe.pending)
    probe.expire(at)
    return (probe.counts.outcomes.total(), probe.pending) != before or probe.next_batch(at) is not None
