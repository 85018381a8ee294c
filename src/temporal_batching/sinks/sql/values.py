"""JSON values read as the Python values that a kind of column holds. Knows no database.

Every reader takes one JSON value that is not null and returns what it means, or raises `BadValue` with what would
have been allowed. None of them guesses: a number in a text column or ``1`` in a boolean one is refused, because a
caller who sends it has most likely mixed up two columns.
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
"""PostgreSQL's numeric ends at 131,072 digits before the point and 16,383 after; nobody means more than this."""

_INTEGER = re.compile(r"[+-]?[0-9]{1,40}", re.ASCII)
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,6})?", re.ASCII)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_TIME = r"[0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?(?:[Zz]|[+-][0-9]{2}:?[0-9]{2})?"
_TIME_ALONE = re.compile(_TIME, re.ASCII)
_TIMESTAMP = re.compile(rf"[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}[Tt ]{_TIME}", re.ASCII)

Reader = Callable[[Any], Any]


class BadValue(ValueError):
    """A value that the column cannot hold.

    Attributes:
        expected: What it can hold.
        why: What is wrong with this one, where that is not plain to see.
        element: The element at fault, as `show` shows it, if the value is a list of which another element may be fine.
    """

    def __init__(self, expected: str, why: str = "", *, element: str = "") -> None:
        super().__init__(expected)
        self.expected = expected
        self.why = why
        self.element = element

    def told(self, value: Any) -> str:
        """What was expected and what came."""
        came = f"{self.element} in it" if self.element else show(value)
        return f"expected {self.expected}, got {came}" + (f": {self.why}" if self.why else "")


def show(value: Any) -> str:
    """A value in a message: long ones shortened, so that no document lands in a history or a log."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, str):
        text = json.dumps(value[:MAX_SHOWN])
        return text if len(value) <= MAX_SHOWN and len(text) <= MAX_SHOWN else f'{_cut(value)[:-1]}..."'
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):  # no JSON, or an integer of more digits than Python writes
        return "a number" if isinstance(value, int) else f"a {type(value).__name__}"
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


def _cut(text: str) -> str:
    """A string's beginning as JSON, with room for what says that there is more; no escape is cut in two."""
    shown = text[: MAX_SHOWN - 4]
    while len(encoded := json.dumps(shown)) > MAX_SHOWN - 2:
        shown = shown[:-1]
    return encoded


def integer(low: int, high: int) -> Reader:
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
    """A decimal, exact: a JSON number means the digits it was sent with, not the binary fraction nearest to them."""
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


def floating(*, nan: bool) -> Reader:
    special = {"Infinity": math.inf, "-Infinity": -math.inf}
    if nan:
        special["NaN"] = math.nan
    allowed = f"a number, a string of one, or {', '.join(special)}"

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
            # Beyond the range of a double, or a NaN that came past JSON: as a string it would be meant.
            raise BadValue(allowed)
        return number

    return read


def boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise BadValue("true or false")


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise BadValue("a string")
    if not value.isascii():
        _check_encodable(value)
    return value


def text_without_nul(value: Any) -> str:
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
        raise BadValue("a string that UTF-8 can encode", "this one holds half of a surrogate pair") from None


def one_of(values: list[str]) -> Reader:
    known = frozenset(values)
    listed = ", ".join(json.dumps(v, ensure_ascii=False) for v in values[:20]) + (", ..." if len(values) > 20 else "")

    def read(value: Any) -> str:
        if isinstance(value, str) and value in known:
            return value
        raise BadValue(f"one of {listed}")

    return read


def timestamp_with_zone(value: Any) -> datetime:
    """RFC 3339 with an offset. Digits beyond microseconds are cut off: no column keeps them."""
    moment = _timestamp(value, "a timestamp with its offset, as 2026-01-31T09:30:00Z")
    if moment.tzinfo is None:
        raise BadValue("a timestamp with its offset, as 2026-01-31T09:30:00Z", "without one its moment is a guess")
    return moment


def timestamp_without_zone(value: Any) -> datetime:
    """RFC 3339, the offset optional. One with an offset is stored as UTC: the column can keep only the clock."""
    allowed = "a timestamp as 2026-01-31T09:30:00"
    moment = _timestamp(value, allowed)
    if moment.tzinfo is None:
        return moment
    try:
        return moment.astimezone(UTC).replace(tzinfo=None)
    except OverflowError:
        raise BadValue(f"{allowed}, in the years 1 to 9999") from None


def _timestamp(value: Any, allowed: str) -> datetime:
    if not isinstance(value, str) or not _TIMESTAMP.fullmatch(value):
        raise BadValue(allowed)
    try:
        return datetime.fromisoformat(value if value.isupper() else value.upper())
    except ValueError:
        raise BadValue(allowed, "no such date or time exists") from None


def calendar_date(value: Any) -> date:
    if not isinstance(value, str) or not _DATE.fullmatch(value):
        raise BadValue("a date as 2026-01-31")
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise BadValue("a date as 2026-01-31", "no such day exists") from None


def clock_time(*, zone: bool) -> Reader:
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
    if isinstance(value, str):
        try:
            return str(UUID(value))
        except ValueError:
            pass
    raise BadValue("a UUID as a string")


def base64_bytes(value: Any) -> bytes:
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            pass
    raise BadValue("bytes as a base64 string")


def json_text(value: Any) -> str:
    """Any JSON value as its text; numbers keep their digits."""
    try:
        encoded = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        encoded.encode()
    except UnicodeEncodeError:
        raise BadValue("JSON that UTF-8 can encode", "this holds half of a surrogate pair") from None
    except (TypeError, ValueError, RecursionError):
        raise BadValue("any JSON value") from None
    return encoded
