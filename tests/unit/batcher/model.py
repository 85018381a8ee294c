"""What the property tests expect of a buffer: its submissions, and its batches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from temporal_batching.batcher.batches import PendingBatch
from temporal_batching.contract import Delivery, ReplyTo
from temporal_batching.wire.submission import Submission, read_submission

PARCEL_KEYS = ["shared", "a", "", "b"]
"""Of a parcel's requests: it has the keys of others among them."""

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
    return read_submission(
        {"request_id": name, "requests": body, "expires_at": expires_at, "reply_to": address(caller, name).to_wire()}
    )


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
    told: list[str] = field(default_factory=list)
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
