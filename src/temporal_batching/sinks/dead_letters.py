"""A dead letter: a rejected request that nobody waits for, with what it takes to send it again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import blake2b

from temporal_batching.contract import Outcome, Record, WriteRequest

DEFAULT_DEAD_LETTERS = "batching_dead_letters"
"""The table of dead letters, unless a sink is given another name."""


@dataclass(frozen=True)
class DeadLetter:
    """A request that came by signal without ``reply_to``, and what the sink had against it.

    Attributes:
        request: As it came.
        outcome: `rejected`, with its code and reason.
        batch_id: The batch it was in.
    """

    request: WriteRequest
    outcome: Outcome
    batch_id: str

    @property
    def id(self) -> str:
        """Stable over every attempt at its batch, so that a sink keeps it once."""
        return blake2b(f"{self.batch_id}\0{self.content()}".encode(), digest_size=8).hexdigest()

    def content(self) -> str:
        """The request as JSON in ASCII: whatever a string may hold, a text column can.

        Raises:
            RecursionError: It is nested so deeply that it could only just be read.
        """
        records = [{"table": record.table, "values": dict(record.values)} for record in self.request.records]
        body = {"request_id": self.request.request_id, "key": self.request.key, "records": records}
        return json.dumps(body, separators=(",", ":"))


def read_content(content: str) -> WriteRequest:
    """The request in `DeadLetter.content`. Its deadline has passed long ago, so it has none."""
    body = json.loads(content)
    records = [Record(record["table"], record["values"]) for record in body["records"]]
    return WriteRequest(body["request_id"], records, body["key"])
