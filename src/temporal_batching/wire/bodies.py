"""What a submission asks for: one request, a parcel of requests, or a parcel that is packed.

A packed parcel is one compressed string, for the way from a gateway through its shard into a flush. The shard need not
look into it: a parcel is accepted, batched and confirmed as a whole, and what its rows would cost the shard's workflow
and its history is not paid.

Records stay JSON here: a shard never looks into them, and the flush decodes them once.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from temporal_batching.contract import JsonObject, Record, WriteRequest
from temporal_batching.errors import InvalidRequest
from temporal_batching.policy import MAX_REQUEST_BYTES
from temporal_batching.wire.checks import check_list, check_text, json_type
from temporal_batching.wire.decoding import InexactNumber, read_number

_FAST = 1
"""zlib's level: rows are alike, so more effort saves little."""


@dataclass(frozen=True, slots=True)
class RequestBody:
    """One request.

    Attributes:
        request_id: The caller's idempotency key.
        key: Decides shard and order; empty for none.
        records: As they travel: ``{"table": ..., "values": {...}}`` each.
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
        records = [Record(record["table"], record["values"]) for record in self.records]
        return [WriteRequest(self.request_id, records, self.key, expires_at)]


@dataclass(frozen=True, slots=True)
class Parcel:
    """Many requests that share one batch and one reply.

    Attributes:
        request_id: The parcel's.
        requests: At least one.
    """

    request_id: str
    requests: Sequence[RequestBody]

    @property
    def request_count(self) -> int:
        return len(self.requests)

    @property
    def record_count(self) -> int:
        return sum(len(request.records) for request in self.requests)

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(request.key for request in self.requests if request.key))

    def to_wire(self) -> JsonObject:
        return {"request_id": self.request_id, "requests": [request.to_wire() for request in self.requests]}

    def write_requests(self, expires_at: float | None) -> list[WriteRequest]:
        """The requests in it, as a sink takes them."""
        return [one for request in self.requests for one in request.write_requests(expires_at)]

    def pack(self, size: int) -> PackedParcel:
        """The same parcel, packed.

        Args:
            size: Its bytes unpacked: what limits count, whichever way it travels.
        """
        text = json.dumps([request.to_wire() for request in self.requests], separators=(",", ":")).encode()
        packed = base64.b64encode(zlib.compress(text, _FAST)).decode()
        return PackedParcel(self.request_id, packed, self.request_count, self.record_count, size, self.keys)


@dataclass(frozen=True, slots=True)
class PackedParcel:
    """A parcel as it costs its shard least.

    Attributes:
        request_id: The parcel's.
        packed: Its requests, as base64 of zlib of JSON.
        request_count: Requests in it, as its sender counted them.
        record_count: Records in it, over all its requests.
        size: Its bytes unpacked.
        keys: Of its requests, each once, without empty ones: what its shard needs to keep their order.
    """

    request_id: str
    packed: str
    request_count: int
    record_count: int
    size: int
    keys: tuple[str, ...]

    @property
    def weight(self) -> int:
        """Bytes as it travels: what is packed, and its keys."""
        return len(self.packed) + len(json.dumps(self.keys, separators=(",", ":")))

    def to_wire(self) -> JsonObject:
        return {
            "request_id": self.request_id,
            "packed": self.packed,
            "holds": [self.request_count, self.record_count],
            "bytes": self.size,
            "keys": list(self.keys),
        }

    def unpack(self) -> Parcel:
        """The parcel, its requests checked: any sender may have packed it.

        Raises:
            InvalidRequest: It is damaged, larger than any request may be, or does not hold what it says.
        """
        requests = [_read_request(one) for one in decompress_requests(self.packed)]
        parcel = Parcel(self.request_id, requests)
        if (parcel.request_count, parcel.record_count) != (self.request_count, self.record_count):
            raise InvalidRequest("a packed parcel holds another number of requests or records than it says")
        if set(parcel.keys) != set(self.keys):
            raise InvalidRequest("a packed parcel holds other keys than it says")
        return parcel

    def write_requests(self, expires_at: float | None) -> list[WriteRequest]:
        """The requests in it, as a sink takes them.

        Raises:
            InvalidRequest: As `unpack`.
        """
        return self.unpack().write_requests(expires_at)


Body: TypeAlias = RequestBody | Parcel | PackedParcel


def read_body(wire: Mapping[str, Any]) -> Body:
    """Reads the body of a submission.

    Raises:
        InvalidRequest: With what is wrong and what is allowed. What is in a packed parcel is not looked at: see
            `PackedParcel.unpack`.
    """
    if "packed" in wire:
        return _read_packed(wire)
    if "requests" in wire:
        parcel_id = check_text(wire.get("request_id"), "request_id")
        return Parcel(parcel_id, [_read_request(one) for one in check_list(wire["requests"], "requests")])
    return _read_request(wire)


def load_body(wire: Mapping[str, Any]) -> Body:
    """The body that a `to_wire` of ours described; not checked again, but for what is in a packed parcel."""
    if "packed" in wire:
        requests, records = wire["holds"]
        return PackedParcel(wire["request_id"], wire["packed"], requests, records, wire["bytes"], tuple(wire["keys"]))
    if "requests" in wire:
        return Parcel(wire["request_id"], [_load_request(one) for one in wire["requests"]])
    return _load_request(wire)


def _load_request(wire: Mapping[str, Any]) -> RequestBody:
    return RequestBody(wire["request_id"], wire["key"], wire["records"])


def _read_request(wire: Any) -> RequestBody:
    if not isinstance(wire, Mapping):
        raise InvalidRequest(f"a write request is a JSON object, not {json_type(wire)}")
    request_id = check_text(wire.get("request_id"), "request_id")
    key = wire.get("key")
    key = "" if key is None else check_text(key, "key", empty=True)
    return RequestBody(request_id, key, [_read_record(one) for one in check_list(wire.get("records"), "records")])


def _read_record(wire: Any) -> JsonObject:
    if not isinstance(wire, Mapping):
        raise InvalidRequest(f"a record is an object with table and values, not {json_type(wire)}")
    table = check_text(wire.get("table"), "table")
    values = wire.get("values")
    if not isinstance(values, Mapping) or not values:
        raise InvalidRequest(f"values of a record for {table!r}: a JSON object with at least one column")
    for column in values:
        check_text(column, "a column name")
    return {"table": table, "values": values}


def _read_packed(wire: Mapping[str, Any]) -> PackedParcel:
    packed, counts, keys = wire["packed"], wire.get("holds"), wire.get("keys")
    parcel_id = check_text(wire.get("request_id"), "request_id")
    if not isinstance(packed, str) or not isinstance(counts, list) or len(counts) != 2:
        raise InvalidRequest("a packed parcel has a string packed, and holds: how many requests and records")
    requests, records, size = _read_count(counts[0]), _read_count(counts[1]), _read_count(wire.get("bytes"))
    if not isinstance(keys, list) or not all(isinstance(key, str) and key for key in keys):
        raise InvalidRequest("a packed parcel has keys: those of its requests, as strings")
    if len(keys) > requests:
        raise InvalidRequest("a packed parcel has more keys than requests")
    return PackedParcel(parcel_id, packed, requests, records, size, tuple(keys))


def _read_count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidRequest("holds and bytes of a packed parcel are whole numbers from 1")
    return value


def decompress_requests(packed: str) -> list[Any]:
    """The requests in a packed parcel, not checked yet.

    Raises:
        InvalidRequest: It is damaged, or larger than any request may be.
    """
    expand = zlib.decompressobj()
    try:
        text = expand.decompress(base64.b64decode(packed, validate=True), MAX_REQUEST_BYTES)
        if not expand.eof:
            raise InvalidRequest(f"a packed parcel is incomplete, or has more than {MAX_REQUEST_BYTES:,} bytes")
        requests = json.loads(text, parse_float=_exact)
    except (binascii.Error, zlib.error, ValueError, RecursionError):
        raise InvalidRequest("a packed parcel cannot be unpacked") from None
    if not isinstance(requests, list):
        raise InvalidRequest("a packed parcel holds one list of requests")
    return requests


def _exact(text: str) -> float:
    number = read_number(text)
    if isinstance(number, InexactNumber):
        raise ValueError("a number that no gateway has packed")
    return number


def same_content(one: Body, other: Body) -> bool:
    """Whether two bodies with one id ask for the same writes: same records, as the ledger's digest sees them.

    The key does not matter, nor the order of columns; but 1, 1.0 and true do, which Python takes for equal.
    """
    if one is other:
        return True
    if isinstance(one, PackedParcel) and isinstance(other, PackedParcel) and one.packed == other.packed:
        return True
    try:
        return _content(one) == _content(other)
    except InvalidRequest:  # a packed parcel that cannot be unpacked
        return False


def _content(body: Body) -> str:
    parcel = body.unpack() if isinstance(body, PackedParcel) else body
    requests = parcel.requests if isinstance(parcel, Parcel) else [parcel]
    content = [[one.request_id, one.records] for one in requests]
    return json.dumps([isinstance(parcel, Parcel), content], sort_keys=True)
