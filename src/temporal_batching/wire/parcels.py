"""Parcels: many requests that share one batch and one reply.

A parcel travels in one of three forms. As a list of requests, which anybody can write and read. Packed, as one
compressed string with an `Announcement` of what is in it. Or by reference: the announcement alone, and the activity in
whose input the packed parcel lies. A shard never looks into a packed parcel: it accepts, batches and confirms it as a
whole, by what is announced. The flush compares that with what it finds, because any sender may have packed it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from temporal_batching.contract import JsonObject, WriteRequest
from temporal_batching.errors import InvalidRequest
from temporal_batching.policy import MAX_REQUEST_BYTES
from temporal_batching.routing import shard_of
from temporal_batching.wire.addresses import MAX_WORKFLOW_ID
from temporal_batching.wire.checks import MAX_NAME, check_content, check_list, check_text
from temporal_batching.wire.decoding import InexactNumber, read_number
from temporal_batching.wire.deflate import compress, expand
from temporal_batching.wire.records import load_record
from temporal_batching.wire.requests import RequestBody, load_request, read_parts, read_request

MAX_KEYS = 100
MAX_KEYS_BYTES = 4_096
"""Keys that a reference brings to its shard, and their bytes as JSON; past either it only says that they are many. What
its keys weigh is all that a large parcel costs the history of its shard."""

_DIGEST_LENGTH = 64
"""Hexadecimal digits of a SHA-256."""

_REFERENCE_BYTES = 350
"""Of a reference without its keys and ids: the names of its fields, the digest, the counts."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a packed parcel holds, as its sender says.

    Attributes:
        request_id: The parcel's.
        request_count: Requests in it.
        record_count: Records in it, over all its requests.
        size: Its bytes unpacked: what limits count, whichever way it travels.
        digest: SHA-256 of the packed string.
        keys: Of its requests, each once, without empty ones: what its shard needs to keep their order. None: they are
            many, and its shard takes it for one that has every key.
        shards: So many shards its batcher had when it was submitted, with which the flush compares keys that are not
            named here; 0 if it need not.
    """

    request_id: str
    request_count: int
    record_count: int
    size: int
    digest: str
    keys: tuple[str, ...] | None
    shards: int = 0

    def to_wire(self) -> JsonObject:
        wire: JsonObject = {
            "request_id": self.request_id,
            "holds": [self.request_count, self.record_count],
            "bytes": self.size,
            "digest": self.digest,
            "keys": None if self.keys is None else list(self.keys),
        }
        if self.shards:
            wire["shards"] = self.shards
        return wire

    def shortened(self) -> Announcement:
        """The same, without its keys if they are many."""
        if self.keys is None or (len(self.keys) <= MAX_KEYS and _keys_bytes(self.keys) <= MAX_KEYS_BYTES):
            return self
        return replace(self, keys=None)

    def check(self, requests: Sequence[WriteRequest]) -> None:
        """Compares it with what the parcel holds.

        Raises:
            InvalidRequest: With what differs.
        """
        if len(requests) != self.request_count or sum(len(one.records) for one in requests) != self.record_count:
            raise InvalidRequest("a packed parcel holds another number of requests or records than it says")
        if self.keys is not None and keys_of(requests) != set(self.keys):
            raise InvalidRequest("a packed parcel holds other keys than it says")


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
        packed = pack([json.dumps(request.to_wire(), separators=(",", ":")) for request in self.requests])
        announced = Announcement(
            self.request_id, self.request_count, self.record_count, size, digest_of(packed), self.keys
        )
        return PackedParcel(announced, packed)


@dataclass(frozen=True, slots=True)
class _Announced:
    """What an announcement says of a parcel, for those who do not look into it."""

    announced: Announcement

    @property
    def request_id(self) -> str:
        return self.announced.request_id

    @property
    def request_count(self) -> int:
        return self.announced.request_count

    @property
    def record_count(self) -> int:
        return self.announced.record_count

    @property
    def keys(self) -> tuple[str, ...]:
        return self.announced.keys or ()

    @property
    def has_many_keys(self) -> bool:
        return self.announced.keys is None


@dataclass(frozen=True, slots=True)
class PackedParcel(_Announced):
    """A parcel with its content as one string.

    Attributes:
        announced: What it holds, as its sender says.
        packed: Its requests, as base64 of zlib of JSON.
    """

    packed: str

    @property
    def weight(self) -> int:
        """Bytes as it travels: what is packed, and its keys."""
        return len(self.packed) + _keys_bytes(self.keys)

    def to_wire(self) -> JsonObject:
        return {**self.announced.to_wire(), "packed": self.packed}

    def check_digest(self) -> None:
        """Compares the content with its digest.

        Raises:
            InvalidRequest: It is another.
        """
        if digest_of(self.packed) != self.announced.digest:
            raise InvalidRequest("a packed parcel is not the one that was announced: its digest is another")

    def write_requests(self, expires_at: float | None) -> list[WriteRequest]:
        """The requests in it, as a sink takes them, checked: any sender may have packed it.

        Raises:
            InvalidRequest: It is damaged, larger than it says, or does not hold what it says.
        """
        self.check_digest()
        known: set[str] = set()
        wires = decompress_requests(self.packed, self.announced.size)
        requests = [_read_packed_request(wire, known, expires_at) for wire in wires]
        self.announced.check(requests)
        return requests

    def at(self, source: ParcelSource) -> ParcelReference:
        """A reference to it, where it lies in the input of an activity."""
        return ParcelReference(self.announced.shortened(), source)


@dataclass(frozen=True, slots=True)
class ParcelSource:
    """Where a parcel's content lies: in the input of this standalone activity.

    Attributes:
        activity_id: The activity's id.
        run_id: Its run.
    """

    activity_id: str
    run_id: str


@dataclass(frozen=True, slots=True)
class ParcelReference(_Announced):
    """A parcel whose content is elsewhere.

    Attributes:
        announced: What it holds, as its sender says.
        source: Where its content lies.
    """

    source: ParcelSource

    @property
    def weight(self) -> int:
        """Bytes as it travels, about: its content does not."""
        ids = (self.request_id, self.source.activity_id, self.source.run_id)
        return _REFERENCE_BYTES + sum(map(len, ids)) + _keys_bytes(self.keys)

    def to_wire(self) -> JsonObject:
        return {**self.announced.to_wire(), "source": [self.source.activity_id, self.source.run_id]}

    def with_content(self, packed: str) -> PackedParcel:
        """The parcel with its content, which is compared with the announcement when it is unpacked."""
        return PackedParcel(self.announced, packed)


def check_keys_of_shard(keys: Iterable[str], shard: int, shards: int) -> None:
    """Refuses keys of other shards than the one a parcel goes to: a shard keeps the order of its own keys alone.

    Raises:
        InvalidRequest: One belongs to another shard.
    """
    if any(shard_of(key, shards) != shard for key in keys):
        raise InvalidRequest(
            f"the parcel has keys of several shards, and goes to one: this batcher has {shards} shards; a writer of "
            f"parcels needs shards={shards}"
        )


def pack(requests: Iterable[str]) -> str:
    """Packs requests, each as the JSON that `RequestBody.to_wire` describes."""
    text = "[" + ",".join(requests) + "]"
    return base64.b64encode(compress(text.encode())).decode()


def pack_parcel(parcel_id: str, requests: Sequence[str], *, records: int, keys: tuple[str, ...]) -> PackedParcel:
    """A parcel as a program sends it, packed, its keys named unless they are many.

    Args:
        parcel_id: The parcel's id.
        requests: As JSON, each as `RequestBody.to_wire` describes.
        records: How many are in them.
        keys: Of the requests, each once, without empty ones.
    """
    packed, size = pack(requests), sum(map(len, requests)) + len(requests) + 1
    return PackedParcel(
        Announcement(parcel_id, len(requests), records, size, digest_of(packed), keys).shortened(), packed
    )


def digest_of(packed: str) -> str:
    """What identifies a packed string."""
    return hashlib.sha256(packed.encode()).hexdigest()


def read_parcel(wire: Mapping[str, Any]) -> Parcel | PackedParcel | ParcelReference:
    """Reads a parcel in any of its forms.

    Raises:
        InvalidRequest: With what is wrong and what is allowed. What is in a packed parcel is not looked at: see
            `PackedParcel.unpack`.
    """
    if wire.get("packed") is not None:
        if not isinstance(wire["packed"], str):
            raise InvalidRequest("a packed parcel has a string packed")
        return PackedParcel(_read_announcement(wire), wire["packed"])
    if wire.get("source") is not None:
        return ParcelReference(_read_announcement(wire), _read_source(wire["source"]))
    parcel_id = check_text(wire.get("request_id"), "request_id")
    known: set[str] = set()
    return Parcel(parcel_id, [read_request(one, known) for one in check_list(wire["requests"], "requests")])


def load_parcel(wire: Mapping[str, Any]) -> Parcel | PackedParcel | ParcelReference:
    """The parcel that a `to_wire` of ours described; not checked again, but for what is in a packed one."""
    if "requests" in wire:
        return Parcel(wire["request_id"], [load_request(one) for one in wire["requests"]])
    keys, (requests, records) = wire["keys"], wire["holds"]
    announced = Announcement(
        wire["request_id"],
        requests,
        records,
        wire["bytes"],
        wire["digest"],
        None if keys is None else tuple(keys),
        wire.get("shards", 0),
    )
    if "packed" in wire:
        return PackedParcel(announced, wire["packed"])
    return ParcelReference(announced, ParcelSource(*wire["source"]))


def is_parcel(wire: Mapping[str, Any]) -> bool:
    """Whether this is a parcel, in any of its forms."""
    return any(wire.get(form) is not None for form in ("packed", "source", "requests"))


def _read_announcement(wire: Mapping[str, Any]) -> Announcement:
    counts, digest, keys = wire.get("holds"), wire.get("digest"), wire.get("keys")
    shards = 0 if wire.get("shards") is None else wire["shards"]
    parcel_id = check_text(wire.get("request_id"), "request_id")
    if not isinstance(counts, list) or len(counts) != 2:
        raise InvalidRequest("a packed parcel has holds: how many requests and records")
    requests, records, size = _read_count(counts[0]), _read_count(counts[1]), _read_count(wire.get("bytes"))
    if not isinstance(digest, str) or len(digest) != _DIGEST_LENGTH or not digest.isascii():
        raise InvalidRequest(f"a packed parcel has a digest of {_DIGEST_LENGTH} hexadecimal digits")
    if isinstance(shards, bool) or not isinstance(shards, int) or shards < 0:
        raise InvalidRequest("shards of a packed parcel is a whole number")
    announced = Announcement(parcel_id, requests, records, size, digest, None, shards)
    if keys is None:
        return announced
    if not isinstance(keys, list) or not all(isinstance(key, str) and 0 < len(key) <= MAX_NAME for key in keys):
        raise InvalidRequest("a packed parcel has keys: those of its requests, as strings")
    if len(keys) > requests:
        raise InvalidRequest("a packed parcel has more keys than requests")
    return replace(announced, keys=tuple(check_text(key, "a key of a packed parcel") for key in keys))


def _read_count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidRequest("holds and bytes of a packed parcel are whole numbers from 1")
    return value


def _read_source(value: Any) -> ParcelSource:
    if not isinstance(value, list) or len(value) != 2:
        raise InvalidRequest("the source of a parcel is an activity id and a run id")
    activity_id, run_id = (check_text(one, "an id of a parcel's source", most=MAX_WORKFLOW_ID) for one in value)
    return ParcelSource(activity_id, run_id)


def _keys_bytes(keys: Sequence[str]) -> int:
    return len(json.dumps(keys, separators=(",", ":")))


def decompress_requests(packed: str, size: int = MAX_REQUEST_BYTES) -> list[Any]:
    """The requests in a packed parcel, not checked yet.

    Args:
        packed: As from `pack`.
        size: Bytes of its JSON at the most.

    Raises:
        InvalidRequest: It is damaged, or larger than that.
    """
    size = min(size, MAX_REQUEST_BYTES)
    try:
        text = expand(base64.b64decode(packed, validate=True), size)
        if text is None:
            raise InvalidRequest(f"a packed parcel is incomplete, or has more than {size:,} bytes")
        requests = json.loads(text, parse_float=_exact, parse_constant=_refuse_constant)
    except (binascii.Error, zlib.error, ValueError, RecursionError) as err:
        if isinstance(err, InvalidRequest):
            raise
        raise InvalidRequest("a packed parcel cannot be unpacked") from None
    if not isinstance(requests, list):
        raise InvalidRequest("a packed parcel holds one list of requests")
    return requests


_NESTED = {dict, list}


def _read_packed_request(wire: Any, known: set[str], expires_at: float | None) -> WriteRequest:
    request_id, key, records = read_parts(wire, known)
    # Numbers were checked when they were read. Nesting needs a look only where a value is nested at all.
    for record in records:
        if not _NESTED.isdisjoint(map(type, record["values"].values())):
            check_content(record)
    return WriteRequest(request_id, [load_record(record) for record in records], key, expires_at)


def keys_of(requests: Iterable[WriteRequest]) -> set[str]:
    """The keys of requests, without the empty one."""
    return {request.key for request in requests} - {""}


def _exact(text: str) -> float:
    number = read_number(text)
    if isinstance(number, InexactNumber):
        raise InvalidRequest(
            "a packed parcel has a number with more digits than a JSON number keeps on its way, or one that is too "
            "large or too small; send it as a string"
        )
    return number


def _refuse_constant(text: str) -> Any:
    raise InvalidRequest("a value in a packed parcel is NaN or infinite: JSON has no such number; send it as a string")
