"""A caller's request as JSON, the way it travels."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from temporal_batching.contract import JsonObject, Record, Returned, WriteRequest
from temporal_batching.errors import InvalidRequest
from temporal_batching.wire.checks import MAX_NAME, check_text
from temporal_batching.wire.records import read_operation, record_to_wire

_AS_IT_IS = frozenset({str, bool, int, float, type(None)})
"""Nearly every value is of one of these, and needs no further look."""


def jsonable(value: Any) -> Any:
    """A value as JSON, the way every sink reads it back.

    Decimals, UUIDs, dates, times and timestamps become strings, bytes become base64, enumerations their value.
    Mappings and sequences are converted through. Anything else that JSON does not know raises `InvalidRequest`.
    """
    if type(value) in _AS_IT_IS or (isinstance(value, str | int | float) and not isinstance(value, Enum)):
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
        return {_name(k): v if type(v) in _AS_IT_IS else jsonable(v) for k, v in value.items()}
    if isinstance(value, Sequence):
        return [v if type(v) in _AS_IT_IS else jsonable(v) for v in value]
    raise InvalidRequest(
        f"a value of type {type(value).__name__}: JSON values, Decimal, datetime, date, time, UUID, bytes and Enum "
        "are allowed"
    )


def _name(value: Any) -> str:
    """The name of a field: any that JSON allows. Whether it fits its column is the sink's to say."""
    if not isinstance(value, str) or len(value) > MAX_NAME:
        return check_text(value, "a key of a JSON value", empty=True)
    return value


def encode_request(request: WriteRequest) -> JsonObject:
    """A request as it travels, its values made JSON.

    Raises:
        InvalidRequest: With what is wrong and what is allowed.
    """
    if not isinstance(request.records, Sequence):
        raise InvalidRequest(f"records is a list of Record, not {type(request.records).__name__}")
    records = [encode_record(record) for record in request.records]
    return {"request_id": request.request_id, "key": request.key, "records": records}


def encode_record(record: Record) -> JsonObject:
    """A record as it travels, its values made JSON.

    Raises:
        InvalidRequest: With what is wrong and what is allowed.
    """
    if not isinstance(record, Record):
        raise InvalidRequest(f"a record is a Record(table, values), not {type(record).__name__}")
    given, returning = record.values, record.returning
    if type(given) is not dict and not isinstance(given, Mapping):
        raise InvalidRequest(f"a record's values are a mapping of columns, not {type(given).__name__}")
    if type(returning) is not tuple and (isinstance(returning, str) or not isinstance(returning, Sequence)):
        raise InvalidRequest(f"a record's returning is a list of columns, not {type(returning).__name__}")
    values = (
        {k if type(k) is str and len(k) <= MAX_NAME else _name(k): v for k, v in given.items()}
        if set(map(type, given.values())) <= _AS_IT_IS
        else _converted(given)
    )
    return record_to_wire(record.table, values, returning, read_operation(record.operation))


def _converted(given: Mapping[str, Any]) -> JsonObject:
    try:
        return {_name(k): v if isinstance(v, Returned) else jsonable(v) for k, v in given.items()}
    except RecursionError:
        raise InvalidRequest("a value is nested too deeply") from None
