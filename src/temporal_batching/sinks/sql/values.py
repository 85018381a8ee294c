"""Readers that turn JSON values into the Python values of a kind of column, independent of the database.

Each reader takes a JSON value that is not null, and returns its value or raises `BadValue` with the allowed values. A
reader does not guess: a number for a text column or ``1`` for a boolean column is rejected, because the caller has
probably confused two columns.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

MAX_SHOWN = 40
MAX_DECIMAL_EXPONENT = 16_383
"""PostgreSQL's numeric has at most 131,072 digits before the point and 16,383 after it."""

_INTEGER = re.compile(r"[+-]?[0-9]{1,40}", re.ASCII)
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,6})?", re.ASCII)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_TIME = r"[0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?(?:[Zz]|[+-][0-9]{2}:?[0-9]{2})?"
_TIME_ALONE = re.compile(_TIME, re.ASCII)
_TIMESTAMP = re.compile(rf"[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}[Tt ]{_TIME}", re.ASCII)
_ANY_DIGIT = bytes.maketrans(b"123456789", b"000000000")
_USUAL_TIMESTAMPS = frozenset(
    f"0000-00-00T00:00:00{fraction}{zone}".encode()
    for fraction in ("", ".000", ".000000")
    for zone in ("", "Z", "+00:00", "-00:00")
)
"""What programs write, with zeros for digits: to compare with these takes a quarter of the time of the pattern."""

Reader = Callable[[Any], Any]


class BadValue(ValueError):
    """A value that the column cannot hold.

    Attributes:
        expected: What the column can hold.
        why: What is wrong with the value, if that is not obvious.
        element: The invalid element, formatted by `show`, if the value is a list.
    """

    def __init__(self, expected: str, why: str = "", *, element: str = "") -> None:
        super().__init__(expected)
        self.expected = expected
        self.why = why
        self.element = element

    def message(self, value: Any) -> str:
        """What was expected and what was received."""
        came = f"{self.element} in it" if self.element else show(value)
        return f"expected {self.expected}, got {came}" + (f": {self.why}" if self.why else "")


def show(value: Any) -> str:
    """Formats a value for a message. Long values are shortened, so that no document is stored in a history or a log."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, str):
        text = json.dumps(value[:MAX_SHOWN])
        return text if len(value) <= MAX_SHOWN and len(text) <= MAX_SHOWN else f'{_cut(value)[:-1]}..."'
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):  # not JSON, or an integer with more digits than Python formats
        return "a number" if isinstance(value, int) else f"a {type(value).__name__}"
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


def _cut(text: str) -> str:
    """The beginning of a string as JSON, with room for an ellipsis. No escape sequence is cut."""
    shown = text[: MAX_SHOWN - 4]
    while len(encoded := json.dumps(shown)) > MAX_SHOWN - 2:
        shown = shown[:-1]
    return encoded


def integer(low: int, high: int) -> Reader:
    """Reads whole numbers in a range."""
    allowed = f"a whole number from {low} to {high}"

    def read(value: Any) -> int:
        if isinstance(value, int) and not isinstance(value, bool):
            number = value
        elif (isinstance(value, str) and _INTEGER.fullmatch(value)) or (
            isinstance(value, float) and value.is_integer() and abs(value) <= 2**53
        ):
            number = int(value)
        else:
            raise BadValue(allowed)
        if not low <= number <= high:
            raise BadValue(allowed)
        return number

    return read


def decimal(precision: int | None = None, scale: int | None = None) -> Reader:
    """Reads decimals exactly: a JSON number is the digits that were sent, not the nearest binary fraction."""
    digits = None if precision is None else precision - (scale or 0)
    allowed = "a decimal number, or a string of one"
    if digits is not None:
        allowed += f", with at most {max(digits, 0)} digits before the point"

    def read(value: Any) -> Decimal:
        if isinstance(value, str):
            if not _DECIMAL.fullmatch(value):
                raise BadValue(allowed)
            number = Decimal(value)
        elif isinstance(value, float) and math.isfinite(value):
            number = Decimal(repr(value))
        elif isinstance(value, int) and not isinstance(value, bool):
            number = Decimal(value)
        else:
            raise BadValue(allowed)
        if number:
            magnitude = number.adjusted()
            if (digits is not None and magnitude >= digits) or abs(magnitude) > MAX_DECIMAL_EXPONENT:
                raise BadValue(allowed)
        return number

    return read


def floating(*, nan: bool, infinity: bool = True) -> Reader:
    """Reads doubles, and infinities as strings.

    Args:
        nan: Whether ``NaN`` as a string is allowed.
        infinity: Whether ``Infinity`` and ``-Infinity`` as strings are allowed.
    """
    special = {"Infinity": math.inf, "-Infinity": -math.inf} if infinity else {}
    if nan:
        special["NaN"] = math.nan
    allowed = f"a number, a string of one, or {', '.join(special)}" if special else "a number, or a string of one"

    def read(value: Any) -> float:
        if isinstance(value, str):
            if value in special:
                return special[value]
            if not _DECIMAL.fullmatch(value):
                raise BadValue(allowed)
        elif not isinstance(value, int | float) or isinstance(value, bool):
            raise BadValue(allowed)
        try:
            number = float(value)
        except OverflowError:
            raise BadValue(allowed) from None
        if not math.isfinite(number):
            # Beyond the range of a double, or a NaN that JSON does not allow; as strings they are handled above.
            raise BadValue(allowed)
        return number

    return read


def boolean(value: Any) -> bool:
    """Reads ``true`` and ``false``."""
    if isinstance(value, bool):
        return value
    raise BadValue("true or false")


def text(value: Any) -> str:
    """Reads strings that UTF-8 can encode."""
    if not isinstance(value, str):
        raise BadValue("a string")
    if not value.isascii():
        _check_encodable(value)
    return value


def text_without_nul(value: Any) -> str:
    """Reads strings that UTF-8 can encode and that do not contain U+0000."""
    if not isinstance(value, str):
        raise BadValue("a string")
    if "\x00" in value:
        raise BadValue("a string", "this database cannot store the character U+0000")
    if not value.isascii():
        _check_encodable(value)
    return value


def _check_encodable(value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadValue("a string that UTF-8 can encode", "it contains half of a surrogate pair") from None


def one_of(values: list[str]) -> Reader:
    """Reads one of these strings."""
    known = frozenset(values)
    listed = ", ".join(json.dumps(v, ensure_ascii=False) for v in values[:20]) + (", ..." if len(values) > 20 else "")

    def read(value: Any) -> str:
        if isinstance(value, str) and value in known:
            return value
        raise BadValue(f"one of {listed}")

    return read


def timestamp_with_zone(value: Any) -> datetime:
    """Reads RFC 3339 with an offset. Digits beyond microseconds are cut off, because no column stores them."""
    moment = _timestamp(value, "a timestamp with its offset, as 2026-01-31T09:30:00Z")
    if moment.tzinfo is None:
        raise BadValue(
            "a timestamp with its offset, as 2026-01-31T09:30:00Z", "without an offset its time is ambiguous"
        )
    return moment


def timestamp_without_zone(value: Any) -> datetime:
    """Reads RFC 3339, with or without an offset. A value with an offset is converted to UTC."""
    allowed = "a timestamp as 2026-01-31T09:30:00"
    moment = _timestamp(value, allowed)
    if moment.tzinfo is None:
        return moment
    try:
        return moment.astimezone(UTC).replace(tzinfo=None)
    except OverflowError:
        raise BadValue(f"{allowed}, in the years 1 to 9999") from None


def _timestamp(value: Any, allowed: str) -> datetime:
    if not isinstance(value, str):
        raise BadValue(allowed)
    usual = value.isascii() and value.encode().translate(_ANY_DIGIT) in _USUAL_TIMESTAMPS
    if not usual and not _TIMESTAMP.fullmatch(value):
        raise BadValue(allowed)
    try:
        return datetime.fromisoformat(value if value.isupper() else value.upper())
    except ValueError:
        raise BadValue(allowed, "no such date or time exists") from None


def calendar_date(value: Any) -> date:
    """Reads dates as 2026-01-31."""
    if not isinstance(value, str) or not _DATE.fullmatch(value):
        raise BadValue("a date as 2026-01-31")
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise BadValue("a date as 2026-01-31", "no such day exists") from None


def clock_time(*, zone: bool) -> Reader:
    """Reads times, with an offset if ``zone``, otherwise without one."""
    allowed = "a time with its offset, as 09:30:00+01:00" if zone else "a time without offset, as 09:30:00"

    def read(value: Any) -> time:
        if not isinstance(value, str) or not _TIME_ALONE.fullmatch(value):
            raise BadValue(allowed)
        try:
            moment = time.fromisoformat(value.upper())
        except ValueError:
            raise BadValue(allowed) from None
        if (moment.tzinfo is not None) is not zone:
            raise BadValue(allowed)
        return moment

    return read


def uuid(value: Any) -> str:
    """Reads UUIDs as strings, and returns their canonical form."""
    if isinstance(value, str):
        try:
            return str(UUID(value))
        except ValueError:
            pass
    raise BadValue("a UUID as a string")


def base64_bytes(value: Any) -> bytes:
    """Reads bytes as base64."""
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            pass
    raise BadValue("bytes as a base64 string")


def json_text(value: Any) -> str:
    """Reads any JSON value, and returns its text; numbers keep their digits."""
    try:
        encoded = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        encoded.encode()
    except UnicodeEncodeError:
        raise BadValue("JSON that UTF-8 can encode", "it contains half of a surrogate pair") from None
    except (TypeError, ValueError, RecursionError):
        raise BadValue("any JSON value") from None
    return encoded
