"""JSON from the wire, in which every number is what its sender wrote.

Python, as most languages, reads a number with a point or an exponent as a double, and ``12345678901234567.89`` silently
becomes the nearest one. Here such a number becomes an `InexactNumber`, which the checks of a request refuse: the
error asks its sender for a string. Whole numbers are exact at any length, and so is every number that a double's
shortest text gives back; from then on it travels as a float.

Measured against Temporal's converter: 0.1 µs more for a number of up to 15 digits, 0.6 µs for one of 17.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from temporalio.api.common.v1 import Payload
from temporalio.converter import PayloadConverter

from temporal_batching.errors import InvalidRequest

_EXACT_LENGTH = 16
"""A decimal of 15 digits survives a double (``sys.float_info.dig``); one character more is its point."""


class InexactNumber:
    """A number that a double does not hold as it was written, or a whole number too long to be read.

    Python does not take it for a number, so that nothing rounds it silently, and JSON cannot write it.
    """

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __float__(self) -> float:
        return float(self.text)

    def __repr__(self) -> str:
        return f"InexactNumber({self.text!r})"


def read_number(text: str) -> float | InexactNumber:
    """A number with a point or an exponent."""
    number = float(text)
    if len(text) <= _EXACT_LENGTH and "e" not in text and "E" not in text:
        return number
    shortest = repr(number)
    if shortest == text:
        return number
    try:
        # Infinity equals no number that JSON can write, and zero equals only zero.
        return number if Decimal(shortest) == Decimal(text) else InexactNumber(text)
    except ArithmeticError:  # an exponent past Decimal's own
        return InexactNumber(text)


def _read_whole_number(text: str) -> int | InexactNumber:
    try:
        return int(text)
    except ValueError:  # Python's limit, 4,300 digits
        return InexactNumber(text)


def decode_json(text: str | bytes) -> Any:
    """JSON with an `InexactNumber` for each number that would be rounded.

    Raises:
        ValueError: It is no JSON.
        RecursionError: It is nested too deeply.
    """
    try:
        return json.loads(text, parse_float=read_number)
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except ValueError:  # a whole number is too long: its request is refused, and not those that came with it
        return json.loads(text, parse_float=read_number, parse_int=_read_whole_number)


def decode_payload(payload: Payload, converter: PayloadConverter) -> Any:
    """What a message brings: JSON read exactly, anything else by the converter.

    Raises:
        InvalidRequest: It is encoded as JSON and is not JSON.
        Exception: Any error of the converter, for an encoding that it does not know.
    """
    if payload.metadata.get("encoding") != b"json/plain":
        return converter.from_payload(payload)
    try:
        return decode_json(payload.data)
    except ValueError:
        raise InvalidRequest("the message is not JSON") from None
    except RecursionError:
        raise InvalidRequest("a value is nested too deeply") from None
