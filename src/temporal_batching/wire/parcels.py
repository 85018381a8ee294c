"""A parcel's requests as one compressed string, for the way from a gateway through its shard into a flush.

The shard need not look into a parcel: it is accepted, batched and told as a whole. So what its rows would cost the
shard's workflow and its history need not be paid.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from temporal_batching.contract import JsonObject
from temporal_batching.errors import InvalidRequest
from temporal_batching.policy import MAX_REQUEST_BYTES
from temporal_batching.wire.decoding import InexactNumber, read_number

_FAST = 1
"""zlib's level: rows are alike, so more effort saves little."""


def pack(parcel_id: str, requests: Sequence[JsonObject], *, records: int, size: int, keys: Sequence[str]) -> JsonObject:
    """The body of a parcel with its requests packed.

    Args:
        parcel_id: Its request id.
        requests: As `read_submission` has let them in.
        records: Over all its requests.
        size: Its bytes unpacked: what limits count, whichever way it travels.
        keys: Of its requests, each once, without empty ones: what its shard has to know to keep their order.
    """
    text = json.dumps(requests, separators=(",", ":")).encode()
    packed = base64.b64encode(zlib.compress(text, _FAST)).decode()
    holds = [len(requests), records]
    return {"request_id": parcel_id, "packed": packed, "holds": holds, "bytes": size, "keys": list(keys)}


def packed_bytes(body: Mapping[str, Any]) -> int:
    """What a packed parcel weighs on its way: what is packed, and its keys beside it."""
    return len(body["packed"]) + len(json.dumps(body["keys"], separators=(",", ":")))


def read_packed(wire: Mapping[str, Any]) -> tuple[JsonObject, int, int, int]:
    """The body of a packed parcel, its requests, records and bytes as its sender counted them.

    Raises:
        InvalidRequest: With what is wrong. What is in the string is not looked at: see `unpack`.
    """
    packed, counts = wire["packed"], wire.get("holds")
    if not isinstance(packed, str) or not isinstance(counts, list) or len(counts) != 2:
        raise InvalidRequest("a packed parcel has a string packed, and holds: how many requests and records")
    requests, records, size = _count(counts[0]), _count(counts[1]), _count(wire.get("bytes"))
    keys = _keys(wire.get("keys"), requests)
    body = {"request_id": wire["request_id"], "packed": packed, "holds": counts, "bytes": size, "keys": keys}
    return body, requests, records, max(size, packed_bytes(body))


def _keys(value: Any, requests: int) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(key, str) and key for key in value):
        raise InvalidRequest("a packed parcel has keys: those of its requests, as strings")
    if len(value) > requests:
        raise InvalidRequest("a packed parcel has more keys than requests")
    return value


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidRequest("holds and bytes of a packed parcel are whole numbers from 1")
    return value


def _exact(text: str) -> float:
    number = read_number(text)
    if isinstance(number, InexactNumber):
        raise ValueError("a number that no gateway has packed")
    return number


def unpack(body: Mapping[str, Any]) -> list[Any]:
    """The requests in a packed parcel.

    Raises:
        InvalidRequest: It is damaged, or larger than any request may be.
    """
    expand = zlib.decompressobj()
    try:
        text = expand.decompress(base64.b64decode(body["packed"], validate=True), MAX_REQUEST_BYTES)
        if not expand.eof:
            raise InvalidRequest(f"a packed parcel is incomplete, or has more than {MAX_REQUEST_BYTES:,} bytes")
        requests = json.loads(text, parse_float=_exact)
    except (binascii.Error, zlib.error, ValueError, RecursionError):
        raise InvalidRequest("a packed parcel cannot be unpacked") from None
    if not isinstance(requests, list):
        raise InvalidRequest("a packed parcel holds one list of requests")
    return requests
