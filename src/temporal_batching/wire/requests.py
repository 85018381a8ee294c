"""One request as it travels: its id, its key, its records.

Records stay JSON here: a shard never looks into them, and the flush decodes them once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from temporal_batching.contract import JsonObject, WriteRequest
from temporal_batching.errors import InvalidRequest
from temporal_batching.wire.checks import MAX_NAME, check_list, check_text, json_type
from temporal_batching.wire.records import load_record, read_record


@dataclass(frozen=True, slots=True)
class RequestBody:
    """One request.

    Attributes:
        request_id: The caller's idempotency key.
        key: Decides shard and order; empty for none.
        records: As they travel: ``{"table": ..., "values": {...}}`` each, with ``references`` and ``returning``
            where it has any.
    """

    request_id: str
    key: str
    records: Sequence[JsonObject]

    @property
    def request_count(self) -> int:
        return 1

    @property
    def record_count(self) -> int:
        return len(self.records)

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.key,) if self.key else ()

    def to_wire(self) -> JsonObject:
        return {"request_id": self.request_id, "key": self.key, "records": self.records}

    def write_requests(self, expires_at: float | None) -> list[WriteRequest]:
        """The requests in it, as a sink takes them."""
        records = [load_record(record) for record in self.records]
        return [WriteRequest(self.request_id, records, self.key, expires_at)]


def default_request_id(*identity: str | None) -> str:
    """The id of a request, or a parcel, that comes by activity without one. Retries keep it, a reset does not.

    Args:
        identity: Of the activity: its workflow, its run, its own id. Temporal allows longer ones than a request id:
            then it is their SHA-256.
    """
    plain = "/".join(filter(None, identity))
    return plain if len(plain) <= MAX_NAME else sha256(plain.encode()).hexdigest()


def read_request(wire: Any, known: set[str] | None = None) -> RequestBody:
    """Reads one request.

    Args:
        wire: What came.
        known: As for `read_record`.

    Raises:
        InvalidRequest: With what is wrong and what is allowed.
    """
    return RequestBody(*read_parts(wire, set() if known is None else known))


def read_parts(wire: Any, known: set[str]) -> tuple[str, str, list[JsonObject]]:
    """The id, the key and the records of a request, as `read_request` reads it."""
    if type(wire) is not dict and not isinstance(wire, Mapping):
        raise InvalidRequest(f"a write request is a JSON object, not {json_type(wire)}")
    request_id = check_text(wire.get("request_id"), "request_id")
    key = wire.get("key")
    key = "" if key is None else check_text(key, "key", empty=True)
    records = [read_record(one, number, known) for number, one in enumerate(check_list(wire.get("records"), "records"))]
    return request_id, key, records


def load_request(wire: Mapping[str, Any]) -> RequestBody:
    """The request that `RequestBody.to_wire` described; not checked again."""
    return RequestBody(wire["request_id"], wire["key"], wire["records"])
