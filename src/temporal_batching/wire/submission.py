"""The door: turns what a caller sent into an `Submission`, or says what is wrong with it.

One set of checks serves every way in: the writer in a workflow, the gateway, the batcher's own handlers. Nothing here
looks into a database; whether a table exists or a value fits its column is the sink's to say.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from temporal_batching.contract import JsonObject, Record, RejectCode, WriteRequest
from temporal_batching.errors import InvalidRequest
from temporal_batching.policy import MAX_REQUEST_BYTES
from temporal_batching.wire.decoding import InexactNumber
from temporal_batching.wire.parcels import pack, packed_bytes, read_packed, unpack

MAX_NAME = 255
"""Characters of a request id, a key, a table or a column: what a database index and a search box can hold."""

ENVELOPE_BYTES = 200
"""Allowance for what travels around the records: field names, reply address, batch id."""

MAX_WAITED = 60.0
"""Seconds before its acceptance that count for a request's linger; no gateway keeps one nearly as long."""

MAX_REPLIES = 32
"""Callers that may wait for one request id at the same time."""

MAX_WORKFLOW_ID = 1_000
"""Characters of a workflow id, a run id or an activity id: Temporal's own limit."""

WITHDRAWN = "withdrawn by its caller"
"""The reason of a request that is rejected because its caller took it back."""

_REPLY_FIELDS = ("workflow_id", "run_id", "activity_id", "from_run_id")


@dataclass(slots=True)
class Submission:
    """One unit of the buffer: a request, or a parcel of requests that share one reply and one batch.

    Attributes:
        id: The request id, or the parcel's.
        body: What the flush is given: the request or the parcel as it travels, without replies.
        requests: Requests in it: 1, or those of the parcel.
        records: Records in it, over all its requests.
        size: Bytes as it travels.
        expires_at: Seconds since the epoch, or None.
        replies: Where the outcome goes; the first is the caller whose records these are.
        arrived_at: Seconds since the epoch; set when the buffer accepts it.
        waited: Seconds that it waited in a gateway before.
        resubmitted: An earlier submission of it may have been accepted, and settled, without its caller being notified.
            So only the sink can say that it is not written.
        withdrawn: Its callers took it back before it came: it is not written any more.
        in_doubt: An attempt at its batch may have committed it.
        keys: What decides the order: its own key, or those of the parcel's requests; without empty ones.
    """

    id: str
    body: JsonObject
    requests: int
    records: int
    size: int
    expires_at: float | None = None
    replies: list[JsonObject] = field(default_factory=list)
    arrived_at: float = 0.0
    resubmitted: bool = False
    waited: float = 0.0
    withdrawn: bool = False
    in_doubt: bool = False
    keys: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.keys = _keys_of(self.body)

    @property
    def doubtful(self) -> bool:
        """Only the sink can say that it is not written."""
        return self.resubmitted or self.in_doubt

    def to_wire(self) -> JsonObject:
        wire = {**self.body, "expires_at": self.expires_at, "reply_to": self.replies}
        if self.resubmitted:
            wire["resubmitted"] = True
        if self.withdrawn:
            wire["withdrawn"] = True
        if self.in_doubt:
            wire["in_doubt"] = True
        return wire

    def packed(self) -> Submission:
        """A parcel as it costs its shard least; any other submission as it is."""
        if "requests" not in self.body:
            return self
        size = self.size - ENVELOPE_BYTES * max(1, len(self.replies))  # whoever reads it adds them again
        body = pack(self.id, self.body["requests"], records=self.records, size=size, keys=self.keys)
        return self if packed_bytes(body) > size else replace(self, body=body)

    def carry(self) -> JsonObject:
        """What the next run needs of it."""
        counts = [self.requests, self.records]
        return {**self.to_wire(), "size": self.size, "arrived_at": self.arrived_at, "counts": counts}

    @classmethod
    def restore(cls, carried: JsonObject) -> Submission:
        """The submission that `carry` described."""
        body = dict(carried)
        requests, records = body.pop("counts")
        size, arrived_at = body.pop("size"), body.pop("arrived_at")
        expires_at, replies = body.pop("expires_at"), body.pop("reply_to")
        resubmitted, in_doubt = body.pop("resubmitted", False), body.pop("in_doubt", False)
        withdrawn = body.pop("withdrawn", False)
        return cls(
            body["request_id"],
            body,
            requests,
            records,
            size,
            expires_at,
            replies,
            arrived_at,
            resubmitted,
            withdrawn=withdrawn,
            in_doubt=in_doubt,
        )


def _keys_of(body: JsonObject) -> tuple[str, ...]:
    if "packed" in body:
        return tuple(body["keys"])
    if "requests" in body:
        return tuple(dict.fromkeys(one["key"] for one in body["requests"] if one["key"]))
    key = body.get("key")
    return (key,) if key else ()


def jsonable(value: Any) -> Any:
    """A value as JSON, the way every sink reads it back.

    Decimals, UUIDs, dates, times and timestamps become strings, bytes become base64, enumerations their value.
    Mappings and sequences are converted through. Anything else that JSON does not know raises `InvalidRequest`.
    """
    if value is None or (isinstance(value, str | bool | int | float) and not isinstance(value, Enum)):
        return value
    if isinstance(value, Enum):
        return jsonable(value.value)
    if isinstance(value, Decimal | UUID):
        return str(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {_key_of_json(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, Sequence):
        return [jsonable(v) for v in value]
    raise InvalidRequest(
        f"a value of type {type(value).__name__}: JSON values, Decimal, datetime, date, time, UUID, bytes and Enum "
        "are allowed"
    )


def encode_request(request: WriteRequest) -> JsonObject:
    """A request as it travels, its values made JSON.

    Raises:
        InvalidRequest: With what is wrong and what is allowed.
    """
    if not isinstance(request.records, Sequence):
        raise InvalidRequest(f"records is a list of Record, not {type(request.records).__name__}")
    try:
        records = [_encode_record(record) for record in request.records]
    except RecursionError:
        raise InvalidRequest("a value is nested too deeply") from None
    return {"request_id": request.request_id, "key": request.key, "records": records}


def _encode_record(record: Record) -> JsonObject:
    if not isinstance(record, Record):
        raise InvalidRequest(f"a record is a Record(table, values), not {type(record).__name__}")
    if not isinstance(record.values, Mapping):
        raise InvalidRequest(f"a record's values are a mapping of columns, not {type(record.values).__name__}")
    return {"table": record.table, "values": jsonable(record.values)}


def read_request(body: Mapping[str, Any], expires_at: float | None) -> WriteRequest:
    """The request in a body that `read_submission` has let in."""
    return WriteRequest(
        request_id=body["request_id"],
        records=[Record(r["table"], r["values"]) for r in body["records"]],
        key=body.get("key", ""),
        expires_at=expires_at,
    )


def read_requests(body: JsonObject, expires_at: float | None) -> list[WriteRequest]:
    """All requests of a body: its own, or its parcel's.

    Raises:
        InvalidRequest: A packed parcel does not hold what it says.
    """
    return [read_request(one, expires_at) for one in _bodies(body)]


def _bodies(body: JsonObject) -> Sequence[JsonObject]:
    if "packed" in body:
        bodies = [_read_body(one) for one in unpack(body)]
        if [len(bodies), sum(len(one["records"]) for one in bodies)] != body["holds"]:
            raise InvalidRequest("a packed parcel holds another number of requests or records than it says")
        if {one["key"] for one in bodies} - {""} != set(body["keys"]):
            raise InvalidRequest("a packed parcel holds other keys than it says")
        return bodies
    requests: Sequence[JsonObject] = body.get("requests", [body])
    return requests


def read_submission(wire: Any) -> Submission:
    """Reads one request, or one parcel, as it travels: ``docs/reference/wire-contract.md`` has the shape.

    Raises:
        InvalidRequest: With what is wrong and what is allowed.
    """
    if not isinstance(wire, Mapping):
        raise InvalidRequest(f"a write request is a JSON object, not {_json_type(wire)}")
    request_id = _text(wire.get("request_id"), "request_id")
    expires_at = wire.get("expires_at")
    if isinstance(expires_at, InexactNumber):  # nanoseconds: a clock need not keep every digit
        expires_at = float(expires_at)
    if expires_at is not None and (isinstance(expires_at, bool) or not isinstance(expires_at, int | float)):
        raise InvalidRequest(f"expires_at is a number of seconds since the epoch, not {_json_type(expires_at)}")
    if (
        expires_at is not None and not -math.inf < expires_at < math.inf
    ):  # no order holds for NaN: it would spoil the deadlines
        raise InvalidRequest("expires_at is a number of seconds since the epoch, not NaN or infinite")
    body: JsonObject
    if "packed" in wire:
        body, count, records, packed_size = read_packed(wire)
    elif "requests" in wire:
        parcel = _sequence(wire["requests"], "requests")
        requests = [_read_body(one) for one in parcel]
        body = {"request_id": request_id, "requests": requests}
        count, records = len(requests), sum(len(one["records"]) for one in requests)
    else:
        body = _read_body(wire)
        count, records = 1, len(body["records"])
    replies = read_replies(wire.get("reply_to"))
    size = (packed_size if "packed" in wire else measure(body)) + ENVELOPE_BYTES * max(1, len(replies))
    if size > MAX_REQUEST_BYTES:
        raise InvalidRequest(
            f"the request has {size:,} bytes: at most {MAX_REQUEST_BYTES:,} fit a batch", RejectCode.TOO_LARGE
        )
    resubmitted, waited = wire.get("resubmitted") is True, _read_waited(wire.get("waited"))
    return Submission(
        request_id, body, count, records, size, expires_at, replies, resubmitted=resubmitted, waited=waited
    )


def _read_waited(value: Any) -> float:
    if value is None:
        return 0.0
    if isinstance(value, InexactNumber):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise InvalidRequest("waited is a number of seconds, 0 or more")
    return float(min(value, MAX_WAITED))


def read_replies(wire: Any) -> list[JsonObject]:
    """Reads ``reply_to``: missing, one address, or a list of them.

    Raises:
        InvalidRequest: With what is wrong and what is allowed.
    """
    if wire is None:
        return []
    replies: list[JsonObject] = []
    for one in wire if isinstance(wire, list) else [wire]:
        if not isinstance(one, Mapping):
            raise InvalidRequest(f"reply_to is an object with workflow_id, not {_json_type(one)}")
        reply = {}
        for name in _REPLY_FIELDS:
            if one.get(name) is not None:
                reply[name] = _text(one[name], f"reply_to.{name}", most=MAX_WORKFLOW_ID)
        if "workflow_id" not in reply and "activity_id" not in reply:
            raise InvalidRequest("reply_to needs workflow_id (for a signal) or activity_id (to complete an activity)")
        if reply not in replies:
            replies.append(reply)
    if len(replies) > MAX_REPLIES:
        raise InvalidRequest(f"reply_to has {len(replies)} addresses: at most {MAX_REPLIES} may wait for one request")
    return replies


def read_withdrawal(args: Sequence[Any]) -> tuple[str, str | None, str | None]:
    """Reads what a withdrawal brings: a request id, the caller's workflow id, its run id; the last two may be missing.

    Raises:
        InvalidRequest: With what is wrong and what is allowed.
    """
    if not 1 <= len(args) <= 3:
        raise InvalidRequest("a withdrawal is a request id, a workflow id and a run id")
    request_id = _text(args[0], "the request id of a withdrawal")
    workflow_id, run_id = (
        None if value is None else _text(value, f"the {what} of a withdrawal", most=MAX_WORKFLOW_ID)
        for value, what in zip([*args[1:], None, None][:2], ("workflow id", "run id"), strict=True)
    )
    return request_id, workflow_id, run_id


def same_content(one: JsonObject, other: JsonObject) -> bool:
    """Whether two bodies with one id ask for the same writes: same records, as the ledger's digest sees them.

    The key does not matter, nor the order of columns; but 1, 1.0 and true do, which Python holds for equal.
    """
    if one is other or ("packed" in one and one["packed"] == other.get("packed")):
        return True
    try:
        return _content(one) == _content(other)
    except InvalidRequest:  # a packed parcel that cannot be unpacked
        return False


def _content(body: JsonObject) -> str:
    is_parcel = "packed" in body or "requests" in body
    return json.dumps([is_parcel, [[one["request_id"], one["records"]] for one in _bodies(body)]], sort_keys=True)


def measure(body: Any) -> int:
    """Bytes of JSON as Temporal's default converter writes it (ASCII, no spaces).

    Raises:
        InvalidRequest: For NaN and infinities, which JSON does not know; for nesting too deep, and numbers too long to
            write or not read exactly.
    """
    try:
        return len(json.dumps(body, allow_nan=False, separators=(",", ":"), default=_refuse))
    except ValueError as err:
        if "integer string conversion" in str(err):  # Python's limit, 4,300 digits
            raise InvalidRequest("a number has too many digits; send it as a string") from None
        raise InvalidRequest("a value is NaN or infinite: JSON has no such number; send it as a string") from None
    except RecursionError:
        raise InvalidRequest("a value is nested too deeply") from None
    except TypeError as err:
        raise InvalidRequest(f"a value is not JSON ({err})") from None


def _refuse(value: Any) -> Any:
    if isinstance(value, InexactNumber):
        raise InvalidRequest(
            "a number has more digits than a JSON number keeps on its way, or is too large or too small; "
            "send it as a string"
        )
    raise TypeError(f"{type(value).__name__} is not JSON")


def _read_body(wire: Any) -> JsonObject:
    if not isinstance(wire, Mapping):
        raise InvalidRequest(f"a write request is a JSON object, not {_json_type(wire)}")
    request_id = _text(wire.get("request_id"), "request_id")
    key = wire.get("key")
    key = "" if key is None else _text(key, "key", empty=True)
    records = []
    for record in _sequence(wire.get("records"), "records"):
        if not isinstance(record, Mapping):
            raise InvalidRequest(f"a record is an object with table and values, not {_json_type(record)}")
        table = _text(record.get("table"), "table")
        values = record.get("values")
        if not isinstance(values, Mapping) or not values:
            raise InvalidRequest(f"values of a record for {table!r}: a JSON object with at least one column")
        for column in values:
            _text(column, "a column name")
        records.append({"table": table, "values": values})
    return {"request_id": request_id, "key": key, "records": records}


def _text(value: Any, what: str, *, empty: bool = False, most: int = MAX_NAME) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"{what} is a string, not {_json_type(value)}")
    if not value and not empty:
        raise InvalidRequest(f"{what} is empty")
    if len(value) > most:
        raise InvalidRequest(f"{what} has {len(value):,} characters: at most {most}")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise InvalidRequest(f"{what} holds half of a surrogate pair, which UTF-8 cannot encode")
    return value


def _key_of_json(value: Any) -> str:
    """Whatever JSON allows: whether it fits its column is the sink's to say."""
    if not isinstance(value, str) or len(value) > MAX_NAME:
        return _text(value, "a key of a JSON value", empty=True)
    return value


def _sequence(value: Any, what: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise InvalidRequest(f"{what} is a list, not {_json_type(value)}")
    if not value:
        raise InvalidRequest(f"{what} is empty: at least one is needed")
    return value


def _json_type(value: Any) -> str:
    """The type as a person who writes JSON calls it; never the value."""
    if value is None:
        return "missing or null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float | InexactNumber):
        return "a number"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, list | tuple):
        return "a list"
    return "an object" if isinstance(value, Mapping) else type(value).__name__


def deadline_after(start: float, timeout: timedelta) -> float:
    """When a write whose caller waits ``timeout`` from ``start`` must be done, in seconds since the epoch.

    A little before the caller gives up (a fifth, 5 seconds at most), so that it hears `expired`, which says that
    nothing was written, instead of running into its own timeout, which says nothing.
    """
    seconds = timeout.total_seconds()
    return start + seconds - min(5.0, seconds / 5)
