"""Values of a program become JSON as every sink reads them back; what JSON does not know is refused."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest

from temporal_batching.contract import Record, WriteRequest
from temporal_batching.errors import InvalidRequest
from temporal_batching.wire.encoding import encode_request, jsonable
from temporal_batching.wire.submission import read_submission


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_what_is_read_is_what_was_encoded() -> None:
    sent = WriteRequest("r-1", [Record("t", {"a": Decimal("1.10"), "b": None})], key="k")
    submission = read_submission({**encode_request(sent), "expires_at": 5})
    assert submission.write_requests() == [WriteRequest("r-1", [Record("t", {"a": "1.10", "b": None})], "k", 5)]


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Amount(Enum):
    ONE = Decimal("1.00")


@pytest.mark.parametrize(
    ("value", "wire"),
    [
        (None, None),
        (True, True),
        (2**70, 2**70),
        (0.1, 0.1),
        ("é", "é"),
        (Decimal("9.50"), "9.50"),
        (Decimal("1E+3"), "1E+3"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC), "2026-01-02T03:04:05.000006+00:00"),
        (date(2026, 1, 2), "2026-01-02"),
        (time(3, 4), "03:04:00"),
        (b"\x00\xff", base64.b64encode(b"\x00\xff").decode()),
        (bytearray(b"ab"), "YWI="),
        (memoryview(b"ab"), "YWI="),
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (Amount.ONE, "1.00"),
        (MappingProxyType({"a": (Decimal(1), [b"ab"])}), {"a": ["1", ["YWI="]]}),
    ],
)
def test_values_become_json_as_every_sink_reads_them_back(value: Any, wire: Any) -> None:
    assert jsonable(value) == wire
    assert type(jsonable(value)) is type(wire)
    json.dumps(jsonable({"nested": [value]}))


@dataclass
class Unknown:
    n: int = 1


@pytest.mark.parametrize("value", [{1, 2}, Unknown(), object(), timedelta(1), 1j, [Unknown()], {"a": Unknown()}])
def test_a_value_that_json_does_not_know_is_refused_with_those_it_does(value: Any) -> None:
    with pytest.raises(InvalidRequest, match="JSON values, Decimal, datetime, date, time, UUID, bytes and Enum"):
        jsonable(value)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([{"table": "t"}], r"a record is a Record\(table, values\), not dict"),
        ("entries", r"a record is a Record\(table, values\), not str"),
        (None, "records is a list of Record, not NoneType"),
        (Record("t", {"a": 1}), "records is a list of Record, not Record"),
        ([Record("t", [1])], "a record's values are a mapping of columns, not list"),  # type: ignore[arg-type]
        ([Record("t", {1: 1})], "a key of a JSON value is a string, not a number"),  # type: ignore[dict-item]
        ([Record("t", {"a": {2: 1}})], "a key of a JSON value is a string, not a number"),
        ([Record("t", {"a": nested(100_000)})], "nested too deeply"),
    ],
)
def test_a_request_that_cannot_be_encoded_is_refused(records: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        encode_request(WriteRequest("r", records))
