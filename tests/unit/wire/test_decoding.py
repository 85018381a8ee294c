"""Decoding keeps a number as it was written, or marks it as one that it could not keep."""

from __future__ import annotations

import base64
import json
import math
import re
import zlib
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.api.common.v1 import Payload
from temporalio.converter import DataConverter

from temporal_batching.contract import Record, WriteRequest
from temporal_batching.errors import InvalidRequest
from temporal_batching.wire.bodies import same_content
from temporal_batching.wire.checks import measure
from temporal_batching.wire.decoding import InexactNumber, decode_json, decode_payload
from temporal_batching.wire.encoding import encode_request
from temporal_batching.wire.parcels import decompress_requests
from temporal_batching.wire.submission import read_submission

CONVERTER = DataConverter.default.payload_converter


def request(number: str, **fields: Any) -> Any:
    wire = {"request_id": "r", "records": [{"table": "t", "values": {"v": [{"deep": "@"}]}}], **fields}
    return decode_json(json.dumps(wire).replace('"@"', number))


digits = st.text("0123456789", min_size=1, max_size=25)
numbers = st.builds(
    lambda sign, whole, fraction, exponent: f"{sign}{int(whole)}{fraction}{exponent}",
    st.sampled_from(["", "-"]),
    digits,
    st.just("") | digits.map(".{}".format),
    st.just("") | st.integers(-400, 400).map("e{}".format) | st.integers(0, 30).map("E+{}".format),
)


@given(numbers)
def test_a_number_is_exact_or_marked(text: str) -> None:
    value = decode_json(text)
    if isinstance(value, InexactNumber):
        assert value.text == text
        assert Decimal(repr(float(text))) != Decimal(text)
    else:
        assert Decimal(repr(value)) == Decimal(text)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_that_json_writes_is_read_again(number: float) -> None:
    read = decode_json(json.dumps(number))
    assert isinstance(read, float)
    assert math.copysign(1, read) == math.copysign(1, number)
    assert read == number


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**40), 10**40))
def test_what_was_read_once_is_written_and_read_as_the_same(number: float | int) -> None:
    """From the gateway on a request is written and read several times, and packed in a parcel."""
    submission = read_submission({"request_id": "p", "requests": [request(repr(number))]})
    again = read_submission(json.loads(json.dumps(submission.packed().to_wire())))
    assert same_content(submission.body, again.body)
    (there,) = again.write_requests()
    assert repr(there.records[0].values["v"][0]["deep"]) == repr(number)


@pytest.mark.parametrize("number", ["12345678901234567.89", "1e400", "-1e400", "1e-400", "9" * 5_000, "1e-" + "9" * 30])
def test_a_request_with_a_number_that_would_be_rounded_is_refused(number: str) -> None:
    with pytest.raises(InvalidRequest, match="send it as a string") as refused:
        read_submission(request(number))
    assert number not in str(refused.value)  # a signal's refusal is logged


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_json_number_is_refused(number: str) -> None:
    with pytest.raises(InvalidRequest, match="NaN or infinite"):
        read_submission(request(number))


def test_a_long_number_costs_its_neighbours_nothing() -> None:
    first, second = decode_json(f"[{'1' * 5_000}, 12345678901234567890123]")
    assert isinstance(first, InexactNumber)
    assert second == 12345678901234567890123


def test_times_may_have_more_digits_than_a_double() -> None:
    submission = read_submission(
        decode_json(
            '{"request_id": "r", "records": [{"table": "t", "values": {"v": 1}}],'
            ' "expires_at": 1769860800.123456789123, "waited": 0.12345678901234567891}'
        )
    )
    assert submission.expires_at == 1769860800.1234568
    assert submission.waited == pytest.approx(0.12345678901234568)
    with pytest.raises(InvalidRequest, match="not NaN or infinite"):
        read_submission({**request("1"), "expires_at": decode_json("1e400")})


def test_an_id_that_is_a_number_is_called_one() -> None:
    with pytest.raises(InvalidRequest, match=re.escape("request_id is a string, not a number")):
        read_submission({**request("1"), "request_id": decode_json("12345678901234567.89")})


def test_a_packed_parcel_with_such_a_number_is_refused() -> None:
    text = '[{"request_id": "r", "records": [{"table": "t", "values": {"v": 12345678901234567.89}}]}]'
    packed = base64.b64encode(zlib.compress(text.encode())).decode()
    with pytest.raises(InvalidRequest, match="a number with more digits"):
        decompress_requests(packed)


def test_a_message_that_is_no_json_says_so_and_any_other_is_the_converters() -> None:
    def payload(data: bytes, encoding: bytes = b"json/plain") -> Payload:
        return Payload(metadata={"encoding": encoding}, data=data)

    for data in (b"{", b"\xff\xfe", b""):
        with pytest.raises(InvalidRequest, match="not JSON"):
            decode_payload(payload(data), CONVERTER)
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        decode_payload(payload(b"[" * 100_000), CONVERTER)
    assert decode_payload(payload(b"", b"binary/null"), CONVERTER) is None
    assert decode_payload(payload(b"1.5", b"binary/plain"), CONVERTER) == b"1.5"
    with pytest.raises(KeyError):
        decode_payload(payload(b"", b"binary/encrypted"), CONVERTER)


def test_a_program_in_python_sends_what_its_float_is() -> None:
    body = encode_request(WriteRequest("r", [Record("t", {"v": 12345678901234567.89, "d": Decimal("1.10")})]))
    assert measure(body) > 0
    assert decode_json(json.dumps(body))["records"][0]["values"] == {"v": 12345678901234568.0, "d": "1.10"}
