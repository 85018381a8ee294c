"""How many requests are cut into parcels, and how their results come back in order. Pure.

The same for a workflow and for a program: what differs is only how a parcel is submitted.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TypeAlias

from temporal_batching.contract import (
    Confirmation,
    JsonObject,
    OutcomeKind,
    ParcelReceipt,
    Record,
    RejectCode,
    ReturnedRow,
    WriteRequest,
)
from temporal_batching.errors import InvalidRequest, WriteError, WriteExpired, WriteRejected
from temporal_batching.policy import BatchPolicy
from temporal_batching.routing import shard_of
from temporal_batching.wire.encoding import encode_record, encode_request
from temporal_batching.wire.parcels import pack_parcel
from temporal_batching.wire.requests import RequestBody
from temporal_batching.wire.submission import ENVELOPE_BYTES, read_written_request
from temporal_batching.writers.failures import rejected_before_submission, write_error

WriteResult: TypeAlias = Confirmation | WriteError

PARCEL_BYTES = 400_000
"""Bytes of one parcel: large enough to be few, small enough that one does not fill the buffer."""

PACKED_PARCEL_BYTES = 800_000
"""Bytes of one parcel that travels packed, and by reference. What cannot be compressed becomes a third longer, and
Temporal refuses a payload of 2 MiB."""

PARCEL_ENVELOPE_BYTES = ENVELOPE_BYTES + 100
"""Of a parcel beside its requests."""


@dataclass(frozen=True, slots=True)
class ParcelLimits:
    """What one parcel may hold, so that it is one batch.

    Attributes:
        requests: As `BatchPolicy.max_batch_size`.
        records: As `BatchPolicy.max_batch_records`.
        size: Bytes as it travels.
    """

    requests: int
    records: int
    size: int

    @classmethod
    def of(cls, policy: BatchPolicy, *, size: int = PARCEL_BYTES) -> ParcelLimits:
        """The limits of a batcher with this policy, for parcels of this many bytes at the most."""
        return cls(policy.max_batch_size, policy.max_batch_records, min(size, policy.max_batch_bytes))


@dataclass(slots=True)
class PlacedRequest:
    """A request, and its position among those that were given.

    Attributes:
        position: Among those that were given.
        body: The request.
        text: The same as JSON, as it is packed.
    """

    position: int
    body: RequestBody
    text: str

    @property
    def routing_key(self) -> str:
        """What decides its shard."""
        return self.body.key or self.body.request_id

    @property
    def size(self) -> int:
        """Bytes of it in a parcel: with a comma."""
        return len(self.text) + 1


@dataclass(slots=True)
class OutgoingParcel:
    """Requests of one shard that are submitted together.

    Columns, not an object for each request: a program has hundreds of thousands under way, and Python's garbage
    collector goes through all objects that live, while it passes over strings and numbers.

    Attributes:
        positions: Of its requests among those that were given, in that order.
        request_ids: Their ids.
        own_keys: The key of each; empty for none.
        texts: The requests as JSON, as they are packed.
        counts: Records in each.
        asking: Places in this parcel whose requests want values of their rows.
        tables: That its records name.
        records: Records in it, over all its requests.
        size: Bytes as it travels.
    """

    positions: list[int] = field(default_factory=list)
    request_ids: list[str] = field(default_factory=list)
    own_keys: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    asking: set[int] = field(default_factory=set)
    tables: dict[str, None] = field(default_factory=dict)
    records: int = 0
    size: int = PARCEL_ENVELOPE_BYTES

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def first_id(self) -> str:
        return self.request_ids[0]

    @property
    def shard_key(self) -> str:
        """What decides its shard."""
        return self.own_keys[0] or self.request_ids[0]

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of its requests, each once, without empty ones."""
        return tuple(key for key in dict.fromkeys(self.own_keys) if key)

    def fits(self, placed: PlacedRequest, limits: ParcelLimits) -> bool:
        """Whether there is room for another request. In an empty parcel there always is."""
        return not self.texts or (
            len(self.texts) < limits.requests
            and self.records + len(placed.body.records) <= limits.records
            and self.size + placed.size <= limits.size
        )

    def add(self, placed: PlacedRequest) -> None:
        body = placed.body
        for record in body.records:
            self.tables[record["table"]] = None
            if "returning" in record:
                self.asking.add(len(self.texts))
        self.positions.append(placed.position)
        self.request_ids.append(body.request_id)
        self.own_keys.append(body.key)
        self.texts.append(placed.text)
        self.counts.append(len(body.records))
        self.records += len(body.records)
        self.size += placed.size

    def halves(self) -> tuple[OutgoingParcel, OutgoingParcel]:
        """The same requests in two parcels. Only where there are two of them at least."""
        half = len(self) // 2
        return self._part(0, half), self._part(half, len(self))

    def _part(self, start: int, stop: int) -> OutgoingParcel:
        counts, texts = self.counts[start:stop], self.texts[start:stop]
        return OutgoingParcel(
            self.positions[start:stop],
            self.request_ids[start:stop],
            self.own_keys[start:stop],
            texts,
            counts,
            {place - start for place in self.asking if start <= place < stop},
            self.tables,
            sum(counts),
            PARCEL_ENVELOPE_BYTES + sum(map(len, texts)) + len(texts),
        )

    def to_wire(self, parcel_id: str, batcher: str) -> JsonObject:
        """The argument of ``batch_write_many``."""
        return {
            "request_id": parcel_id,
            "shard_key": self.shard_key,
            "requests": [json.loads(text) for text in self.texts],
            "batcher": batcher,
        }

    def to_packed_wire(self, parcel_id: str, batcher: str) -> JsonObject:
        """The same, packed: its gateway does not look into it, and hands its shard a reference."""
        packed = pack_parcel(parcel_id, self.texts, records=self.records, keys=self.keys)
        return {**packed.to_wire(), "shard_key": self.shard_key, "batcher": batcher}

    def summary(self) -> str:
        """Its activity's summary in the Web UI: the tables and the number of requests, nothing of their values."""
        count = len(self)
        return f"{count} request{'s' if count > 1 else ''} to {', '.join(self.tables)}"[:200]


def cut(requests: Iterable[PlacedRequest], limits: ParcelLimits, shards: int) -> Iterator[OutgoingParcel]:
    """Cuts requests into parcels: each has requests of one shard, in their order, as many as fit one batch.

    A parcel is given out as soon as it is full, so that requests may be read while others are submitted. Parcels of one
    shard come in the order of their requests, and a key belongs to one shard: so the order of keys is kept.
    """
    incomplete: dict[int, OutgoingParcel] = {}
    for placed in requests:
        shard = shard_of(placed.routing_key, shards) if shards > 1 else 0
        parcel = incomplete.get(shard)
        if parcel is None:
            parcel = incomplete[shard] = OutgoingParcel()
        elif not parcel.fits(placed, limits):
            yield parcel
            parcel = incomplete[shard] = OutgoingParcel()
        parcel.add(placed)
    yield from incomplete.values()


@dataclass(frozen=True, slots=True)
class ParcelFailure:
    """A parcel that has no receipt.

    Attributes:
        cause: Why its activity failed.
        timeout: How long it had.
    """

    cause: BaseException | None
    timeout: timedelta

    def is_too_large(self, parcel: OutgoingParcel) -> bool:
        """The limits in force are narrower than those it was cut for; so nothing of it was accepted."""
        error = write_error(parcel.first_id, self.cause, self.timeout)
        known = error.confirmation if isinstance(error, WriteRejected) else None
        return known is not None and known.code == RejectCode.TOO_LARGE


def numbered_ids(draw: Callable[[], str]) -> Callable[[], str]:
    """Makes ids for the requests of one call: something unique, drawn for the first of them, and a number.

    Not each at random: ids that are alike are packed to a fraction, and lie side by side in the index of a ledger.
    """
    unique, numbers = functools.cache(draw), itertools.count()
    return lambda: f"{unique()}-{next(numbers)}"


class ManyWrites:
    """One call of `write_many`: what it was given, and the result of each.

    Args:
        requests: Requests, or bare records.
        new_id: Draws the id of a bare record's request.

    Attributes:
        read_from: The task queue of workers that can read what is unread, as the latest receipt says.

    Raises:
        WriteRejected: `requests` is nothing that requests could be read from.
    """

    def __init__(self, requests: Iterable[WriteRequest | Record], *, new_id: Callable[[], str]) -> None:
        try:
            self._given = list(requests)
        except TypeError:
            wrong = f"requests is a list of WriteRequest and Record, not {type(requests).__name__}"
            raise rejected_before_submission("", InvalidRequest(wrong)) from None
        self._results: list[WriteResult | None] = [None] * len(self._given)
        self._new_id = new_id
        self._unread: dict[str, list[int]] = {}  # positions by request id
        self.read_from = ""

    @property
    def results(self) -> list[WriteResult]:
        """For each request, in order, once all are settled.

        Raises:
            RuntimeError: One is not settled.
        """
        settled = [result for result in self._results if result is not None]
        if len(settled) < len(self._results):
            raise RuntimeError(f"{len(self._results) - len(settled)} requests of write_many have no result")
        return settled

    def parcels(self, limits: ParcelLimits, shards: int) -> Iterator[OutgoingParcel]:
        """What is to be submitted. A request that no batch can take gets its result on the way, and is in none."""
        return cut(self._read(), limits, shards)

    def settle(self, parcel: OutgoingParcel, answer: ParcelReceipt | ParcelFailure) -> None:
        """Gives each request of a parcel its result."""
        results = self._results
        for place, (position, request_id) in enumerate(zip(parcel.positions, parcel.request_ids, strict=True)):
            if not isinstance(answer, ParcelReceipt):
                results[position] = _for_each(write_error(request_id, answer.cause, answer.timeout))
                continue
            confirmation = results[position] = _confirmation(answer, place, request_id)
            unread = answer.unread and place in parcel.asking and confirmation.returned is None
            if unread and confirmation.outcome in (OutcomeKind.WRITTEN, OutcomeKind.DUPLICATE):
                self.read_from = answer.read_from
                self._unread.setdefault(request_id, []).append(position)

    @property
    def unread(self) -> list[str]:
        """Ids of written requests whose returned values their receipt left out."""
        return list(self._unread)

    def fill(self, returned: Mapping[str, list[ReturnedRow | None]]) -> None:
        """Adds returned values to their confirmations."""
        for request_id, rows in returned.items():
            for position in self._unread.pop(request_id, ()):
                confirmation = self._results[position]
                if isinstance(confirmation, Confirmation):
                    self._results[position] = replace(confirmation, returned=rows)

    def _read(self) -> Iterator[PlacedRequest]:
        known: set[str] = set()
        for position, given in enumerate(self._given):
            request_id = ""
            try:
                if isinstance(given, Record):
                    request_id = self._new_id()
                    wire: JsonObject = {"request_id": request_id, "key": "", "records": [encode_record(given)]}
                elif isinstance(given, WriteRequest):
                    request_id = given.request_id
                    wire = encode_request(given)
                else:
                    raise InvalidRequest(f"a request is a WriteRequest or a Record, not {type(given).__name__}")
                yield PlacedRequest(position, *read_written_request(wire, known))
            except InvalidRequest as err:
                self._results[position] = rejected_before_submission(request_id, err)


def _for_each(error: WriteError) -> WriteResult:
    """A parcel that was refused or expired as a whole: each request in it has that outcome."""
    if isinstance(error, WriteExpired | WriteRejected) and error.confirmation is not None:
        known = error.confirmation
        return Confirmation(error.request_id, known.outcome, code=known.code, reason=known.reason)
    return error


def _confirmation(receipt: ParcelReceipt, place: int, request_id: str) -> Confirmation:
    other = receipt.others.get(str(place)) if receipt.others else None
    kind, code, reason = (OutcomeKind.WRITTEN, None, None) if other is None else (other.kind, other.code, other.reason)
    returned = receipt.returned.get(str(place)) if receipt.returned else None
    return Confirmation(
        request_id,
        kind,
        receipt.batch_id,
        receipt.batch_size,
        receipt.shard,
        receipt.settled_at,
        code,
        reason,
        returned,
        receipt.traceparent,
    )
