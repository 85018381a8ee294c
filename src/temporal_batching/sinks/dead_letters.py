"""A dead letter: a rejected request without a reply address, with all that is needed to resubmit it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import blake2b

from temporal_batching.contract import Outcome, WriteRequest
from temporal_batching.wire.records import load_record, record_to_wire

DEFAULT_DEAD_LETTERS = "batching_dead_letters"
"""The default name of the table of dead letters."""


@dataclass(frozen=True)
class DeadLetter:
    """A rejected request that came by signal without ``reply_to``, and why the sink rejected it.

    Attributes:
        request: The request, unchanged.
        outcome: `rejected`, with its code and reason.
        batch_id: The batch that it was in.
    """

    request: WriteRequest
    outcome: Outcome
    batch_id: str

    @property
    def id(self) -> str:
        """The letter's id. It is the same in every attempt at the batch, so that a sink keeps the letter once."""
        return blake2b(f"{self.batch_id}\0{self.content()}".encode(), digest_size=8).hexdigest()

    def content(self) -> str:
        """The request as JSON in ASCII, which a text column can hold whatever characters the request contains.

        Raises:
            RecursionError: It is nested too deeply to be encoded.
        """
        records = [record_to_wire(r.table, dict(r.values), r.returning, r.operation) for r in self.request.records]
        body = {"request_id": self.request.request_id, "key": self.request.key, "records": records}
        return json.dumps(body, separators=(",", ":"))


def read_content(content: str) -> WriteRequest:
    """Reads the request from `DeadLetter.content`, without a deadline: the original one has passed."""
    body = json.loads(content)
    records = [load_record(record) for record in body["records"]]
    return WriteRequest(body["request_id"], records, body["key"])
