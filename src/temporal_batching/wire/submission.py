"""`Submission`: one unit of a shard's buffer, read from what a caller or a gateway sent.

One set of checks serves every way in: the writer in a workflow, the program, the gateway, the shard itself. Nothing
here looks into a database; whether a table exists or a value fits its column is the sink's to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from temporal_batching.contract import JsonObject, RejectCode, ReplyTo, WriteRequest
from temporal_batching.errors import InvalidRequest
from temporal_batching.policy import MAX_REQUEST_BYTES
from temporal_batching.wire.addresses import load_replies, read_replies
from temporal_batching.wire.bodies import Body, load_body, read_body
from temporal_batching.wire.checks import check_content, json_type, measure, write_content
from temporal_batching.wire.deadlines import read_deadline, read_waited
from temporal_batching.wire.parcels import PackedParcel, Parcel, ParcelReference, ParcelSource
from temporal_batching.wire.requests import RequestBody, read_request
from temporal_batching.wire.safe_integers import read_safe_integers
from temporal_batching.wire.traces import TRACE_BYTES, read_traceparent

ENVELOPE_BYTES = 200
"""Allowance for what travels around the records of one caller: field names, reply address, batch id."""

_REPLY_NAMES = 80
"""Bytes of a reply address without its values: the names of its fields, and what JSON puts around them."""

WITHDRAWN = "withdrawn by its caller"
"""The reason of a request that is rejected because its caller took it back."""


@dataclass(slots=True)
class Submission:
    """One unit of the buffer: a request, or a parcel of requests that share one reply and one batch.

    Attributes:
        body: What it asks for.
        size: Bytes as it travels; of a parcel by reference those of its content too, wherever that lies.
        expires_at: Seconds since the epoch, or None.
        replies: Where the outcome goes; the first is the caller whose records these are.
        arrived_at: Seconds since the epoch; set when the buffer accepts it.
        waited: Seconds that it waited in a gateway before.
        resubmitted: An earlier submission of it may have been accepted, and settled, without its caller being notified.
            So only the sink can say that it is not written.
        withdrawn: Its callers took it back before it came: it is not written any more.
        in_doubt: An attempt at its batch may have committed it.
        traceparent: The span of its caller, if it is traced.
        joined: Spans of other callers, who wait for the same.
        id: The request id, or the parcel's.
        requests: Requests in it: 1, or those of the parcel.
        records: Records in it, over all its requests.
        keys: What decides the order: its own key, or those of the parcel's requests; without empty ones.
    """

    body: Body
    size: int
    expires_at: float | None = None
    replies: list[ReplyTo] = field(default_factory=list)
    arrived_at: float = 0.0
    waited: float = 0.0
    resubmitted: bool = False
    withdrawn: bool = False
    in_doubt: bool = False
    traceparent: str | None = None
    joined: list[str] = field(default_factory=list)
    id: str = field(init=False)
    requests: int = field(init=False)
    records: int = field(init=False)
    keys: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        body = self.body
        self.id, self.keys = body.request_id, body.keys
        self.requests, self.records = body.request_count, body.record_count

    @property
    def doubtful(self) -> bool:
        """Only the sink can say that it is not written."""
        return self.resubmitted or self.in_doubt

    @property
    def routing_key(self) -> str:
        """What decides its shard: its key, else its id. A parcel comes with a routing key of its own."""
        return next(iter(self.keys), self.id)

    @property
    def is_parcel(self) -> bool:
        """Its caller receives one receipt for many requests."""
        return isinstance(self.body, Parcel | PackedParcel | ParcelReference)

    @property
    def has_many_keys(self) -> bool:
        """Its keys are too many to be named: for the order it has every key."""
        return isinstance(self.body, PackedParcel | ParcelReference) and self.body.has_many_keys

    @property
    def weight(self) -> int:
        """Bytes that its shard keeps and carries over: without the content of a parcel by reference."""
        body = self.body
        return self.size - body.announced.size + body.weight if isinstance(body, ParcelReference) else self.size

    @property
    def traceparents(self) -> list[str]:
        """The spans of all its callers."""
        return [] if self.traceparent is None else [self.traceparent, *self.joined]

    @property
    def untraced_size(self) -> int:
        """Its size without the spans of its callers, which make no request too large."""
        return self.size - TRACE_BYTES * len(self.traceparents)

    def growth_by(self, other: Submission, new: list[ReplyTo]) -> int:
        """Bytes by which it grows if these callers of another one join it."""
        return sum(map(reply_bytes, new)) + TRACE_BYTES * bool(new and self._span_to_join(other))

    def join(self, other: Submission, new: list[ReplyTo]) -> None:
        """Has callers of another one, for the same, wait for this one."""
        span = self._span_to_join(other)
        if new and self.traceparent is None:
            self.traceparent = span
        elif new and span is not None:
            self.joined.append(span)
        self.replies.extend(new)

    def _span_to_join(self, other: Submission) -> str | None:
        return None if other.traceparent in self.traceparents else other.traceparent

    def write_requests(self) -> list[WriteRequest]:
        """The requests in it, as a sink takes them.

        Raises:
            InvalidRequest: A packed parcel does not hold what it says.
            LookupError: The content of a parcel by reference is elsewhere.
        """
        if isinstance(self.body, ParcelReference):
            raise LookupError("the content of a parcel by reference is elsewhere")
        return self.body.write_requests(self.expires_at)

    def packed(self) -> Submission:
        """A parcel as it costs its shard least; any other submission as it is."""
        if not isinstance(self.body, Parcel):
            return self
        size = self.untraced_size - envelope_bytes(self.replies)  # the reader adds them again
        body = self.body.pack(size)
        return self if body.weight > size else replace(self, body=body)

    def by_reference(self, source: ParcelSource) -> Submission:
        """A packed parcel without its content, which lies in the input of an activity."""
        return replace(self, body=self.body.at(source)) if isinstance(self.body, PackedParcel) else self

    def announcing_shards(self, shards: int) -> Submission:
        """A packed parcel, for its flush to compare keys with its shard that it does not name; any other as it is."""
        if not isinstance(self.body, PackedParcel):
            return self
        return replace(self, body=replace(self.body, announced=replace(self.body.announced, shards=shards)))

    def with_content(self, packed: str) -> Submission:
        """A parcel by reference with its content."""
        return replace(self, body=self.body.with_content(packed)) if isinstance(self.body, ParcelReference) else self

    def to_wire(self) -> JsonObject:
        """What the flush is given, and what `read_submission` reads."""
        wire = self.body.to_wire()
        wire["expires_at"] = self.expires_at
        wire["reply_to"] = [reply.to_wire() for reply in self.replies]
        if self.resubmitted:
            wire["resubmitted"] = True
        if self.withdrawn:
            wire["withdrawn"] = True
        if self.in_doubt:
            wire["in_doubt"] = True
        if self.traceparent is not None:
            wire["traceparent"] = self.traceparent
            if self.joined:
                wire["joined"] = self.joined
            if self.arrived_at:  # where the span of a request begins
                wire["arrived_at"] = self.arrived_at
        return wire


def load_submission(wire: Mapping[str, Any], *, size: int = 0, arrived_at: float = 0.0) -> Submission:
    """The submission that `Submission.to_wire` described; not checked again.

    Args:
        wire: As from `Submission.to_wire`. Fields that are not known are ignored, flags that are missing are false.
        size: Bytes as it travels, where they matter.
        arrived_at: When the buffer accepted it, where it matters.
    """
    return Submission(
        load_body(wire),
        size,
        wire.get("expires_at"),
        load_replies(wire.get("reply_to", ())),
        arrived_at or wire.get("arrived_at", 0.0),
        resubmitted=wire.get("resubmitted", False),
        withdrawn=wire.get("withdrawn", False),
        in_doubt=wire.get("in_doubt", False),
        traceparent=wire.get("traceparent"),
        joined=list(wire.get("joined", ())),
    )


def read_submission(wire: Any) -> Submission:
    """Reads one request, or one parcel, as it travels: ``docs/reference/wire-contract.md`` has the shape.

    Raises:
        InvalidRequest: With what is wrong and what is allowed.
    """
    if not isinstance(wire, Mapping):
        raise InvalidRequest(f"a write request is a JSON object, not {json_type(wire)}")
    expires_at = read_deadline(wire.get("expires_at"))
    body = read_body(wire)
    replies = read_replies(wire.get("reply_to"))
    if read_safe_integers(wire):
        replies = [replace(reply, safe_integers=True) for reply in replies]
    content = _content_bytes(body)
    _check_size(content + ENVELOPE_BYTES)
    size = content + envelope_bytes(replies)
    if size > MAX_REQUEST_BYTES:
        raise InvalidRequest(
            f"the request and its reply addresses have {size:,} bytes: at most {MAX_REQUEST_BYTES:,} fit a batch",
            RejectCode.TOO_LARGE,
        )
    traceparent = read_traceparent(wire.get("traceparent"))
    return Submission(
        body,
        size if traceparent is None else size + TRACE_BYTES,
        expires_at,
        replies,
        waited=read_waited(wire.get("waited")),
        resubmitted=wire.get("resubmitted") is True,
        traceparent=traceparent,
    )


def read_written_request(wire: JsonObject, known: set[str]) -> tuple[RequestBody, str]:
    """Reads a request that is to become part of a parcel, as `read_submission` does.

    Args:
        wire: What came.
        known: As for `read_record`.

    Returns:
        It, and the JSON that it is packed as.

    Raises:
        InvalidRequest: With what is wrong and what is allowed.
    """
    body = read_request(wire, known)
    text = write_content(body.to_wire())
    _check_size(len(text) + ENVELOPE_BYTES)
    return body, text


def _check_size(size: int) -> None:
    if size > MAX_REQUEST_BYTES:
        raise InvalidRequest(
            f"the request has {size:,} bytes: at most {MAX_REQUEST_BYTES:,} fit a batch", RejectCode.TOO_LARGE
        )


def _content_bytes(body: Body) -> int:
    """Bytes of a body, its content checked; of a packed parcel what it weighs unpacked."""
    if isinstance(body, PackedParcel):
        return max(body.announced.size, body.weight)
    if isinstance(body, ParcelReference):
        return body.announced.size
    if isinstance(body, Parcel):  # one by one: nesting is looked into only where there is much of it
        each = sum(check_content(request.to_wire()) + 1 for request in body.requests)
        return each + measure({"request_id": body.request_id, "requests": []})
    return check_content(body.to_wire())


def envelope_bytes(replies: list[ReplyTo]) -> int:
    """What travels around the records: `ENVELOPE_BYTES` for each caller, more for addresses that are longer."""
    return sum(map(reply_bytes, replies)) or ENVELOPE_BYTES


def reply_bytes(reply: ReplyTo) -> int:
    """What one caller adds to a submission: its address, which workflow ids of 1,000 characters make long."""
    text = "".join(filter(None, (reply.workflow_id, reply.run_id, reply.activity_id, reply.from_run_id)))
    escaped = '"' in text or "\\" in text or not (text.isascii() and text.isprintable())
    if not escaped and len(text) <= ENVELOPE_BYTES - _REPLY_NAMES:
        return ENVELOPE_BYTES
    return max(ENVELOPE_BYTES, measure(reply.to_wire()))
