"""The reader of each column type, and how its value is passed to the driver, for each dialect.

PostgreSQL receives text in each type's input syntax, as an element of an array literal: the statement unnests one
array for each column. SQLite receives its storage classes. Null is SQL's NULL, except in a JSON column that is NOT
NULL: there it is JSON's null.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from temporal_batching.sinks.sql import values
from temporal_batching.sinks.sql.values import BadValue, Reader

INT64 = (-(2**63), 2**63 - 1)
SQLITE_DIGITS = 15
"""SQLite stores a decimal as a double, which keeps this many digits exactly."""

PG_NULL = "NULL"
LONGEST_MICROSECONDS = len("2026-01-31T09:30:00.123456+01:00")


def quoted_element(text: str) -> str:
    """Quotes a text as an element of an array literal."""
    if "\\" in text or '"' in text:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def array_literal(elements: Iterable[str], delimiter: str = ",") -> str:
    """An array literal of these elements. It is many times faster than the driver's conversion of a list."""
    return "{" + delimiter.join(elements) + "}"


def postgresql_binder(column_type: sa.types.TypeEngine[Any], *, nullable: bool, delimiter: str = ",") -> Reader:
    """A reader that turns a JSON value into the text of one element of an array literal.

    Args:
        column_type: The column's type, as SQLAlchemy reflected it.
        nullable: Whether the column may hold SQL's NULL.
        delimiter: The delimiter of the elements if the column is an array: ``typdelim`` of its element type. It is
            almost always a comma; ``box`` has a semicolon, and types of extensions may have another one.
    """
    read, quote = _postgresql_text(column_type, delimiter)
    null = '"null"' if isinstance(column_type, sa.JSON) and not nullable else PG_NULL
    if not quote:
        return lambda value: null if value is None else read(value)

    def bind(value: Any) -> str:
        if value is None:
            return null
        text = read(value)
        # `quoted_element` without the call, because this runs for every value.
        if "\\" in text or '"' in text:
            return quoted_element(text)
        return f'"{text}"'

    return bind


def _postgresql_text(column_type: sa.types.TypeEngine[Any], delimiter: str) -> tuple[Callable[[Any], str], bool]:
    """The reader of a type, and whether its text needs quotes inside an array literal."""
    if isinstance(column_type, pg.DOMAIN):
        return _postgresql_text(column_type.data_type, delimiter)
    if isinstance(column_type, sa.ARRAY):
        return _postgresql_array(column_type, delimiter), True
    for kind, make, quote in _POSTGRESQL:
        if isinstance(column_type, kind):
            return make(column_type), quote
    return _other_text, True


def _postgresql_array(column_type: Any, delimiter: str) -> Callable[[Any], str]:
    bind_item = postgresql_binder(column_type.item_type, nullable=True)

    def bind_each(value: Any) -> str:
        if not isinstance(value, list):
            raise BadValue("a list")
        # A list in a list is a further dimension: in PostgreSQL all arrays of one element type have one type.
        items = [bind_each(item) if isinstance(item, list) else _bind_element(bind_item, item) for item in value]
        return array_literal(items, delimiter)

    def bind(value: Any) -> str:
        try:
            return bind_each(value)
        except RecursionError:
            raise BadValue("a list of few dimensions") from None

    return bind


def _bind_element(bind: Reader, item: Any) -> str:
    try:
        text: str = bind(item)
    except BadValue as err:
        raise BadValue(
            f"a list, each element {err.expected}", err.why, element=err.element or values.show(item)
        ) from None
    return text


def _other_text(value: Any) -> str:
    """Reads other types (intervals, addresses, ranges, ...) as strings in the syntax of the type."""
    if isinstance(value, str):
        return values.text_without_nul(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(value)
    raise BadValue("a string in the syntax of the column's type")


def _as_text(read: Reader, to_text: Callable[[Any], str] = str) -> Callable[[Any], str]:
    return lambda value: to_text(read(value))


def _moment(column_type: Any) -> Callable[[Any], str]:
    if not column_type.timezone:
        return _as_text(values.timestamp_without_zone, datetime.isoformat)
    read = values.timestamp_with_zone

    def bind(value: Any) -> str:
        moment = read(value)
        # The text is valid for PostgreSQL too, unless it has digits past the microseconds, which are cut off.
        return moment.isoformat() if len(value) > LONGEST_MICROSECONDS else value.upper()

    return bind


def _numeric(column_type: Any) -> Callable[[Any], str]:
    precision, scale = column_type.precision, column_type.scale
    read = values.decimal(precision, scale)
    # Most decimals are a few digits in a string: they fit without arithmetic.
    digits = 18 if precision is None else precision - (scale or 0)
    quick = (
        re.compile(rf"-?[0-9]{{1,{max(digits, 1)}}}(?:\.[0-9]{{1,18}})?", re.ASCII).fullmatch if digits > 0 else None
    )

    def bind(value: Any) -> str:
        if quick is not None and isinstance(value, str) and quick(value):
            return value
        return str(read(value))

    return bind


def _integers(low: int, high: int) -> Callable[[Any], Callable[[Any], str]]:
    return lambda _: _as_text(values.integer(low, high))


# The first kind that matches decides, so a subtype precedes its base.
_POSTGRESQL: list[tuple[type[Any], Callable[[Any], Callable[[Any], str]], bool]] = [
    (pg.OID, _integers(0, 2**32 - 1), False),
    (sa.SmallInteger, _integers(-(2**15), 2**15 - 1), False),
    (sa.BigInteger, _integers(*INT64), False),
    (sa.Integer, _integers(-(2**31), 2**31 - 1), False),
    (sa.Float, lambda _: _as_text(values.floating(nan=True), repr), False),
    (sa.Numeric, _numeric, False),
    (sa.Boolean, lambda _: lambda value: "t" if values.boolean(value) else "f", False),
    (sa.Enum, lambda t: values.one_of(t.enums), True),
    (sa.String, lambda _: values.text_without_nul, True),
    (sa.DateTime, _moment, False),
    (sa.Date, lambda _: _as_text(values.calendar_date), False),
    (sa.Time, lambda t: _as_text(values.clock_time(zone=t.timezone)), False),
    (sa.Uuid, lambda _: values.uuid, False),
    (sa.LargeBinary, lambda _: _as_text(values.base64_bytes, lambda b: "\\x" + b.hex()), True),
    (sa.JSON, lambda _: values.json_text, True),
]


def postgresql_number(column_type: sa.types.TypeEngine[Any]) -> str:
    """The kind of a type that holds numbers, as `BoundColumn.number` has it; empty for any other type."""
    if isinstance(column_type, pg.DOMAIN):
        return postgresql_number(column_type.data_type)
    kinds = ((sa.Integer, "integer"), (sa.Float, "double"), (sa.Numeric, "exact"))
    return next((kind for known, kind in kinds if isinstance(column_type, known)), "")


def sqlite_number(declared: str) -> str:
    """The kind of a type that holds numbers, as `BoundColumn.number` has it; empty for any other type."""
    name = declared.upper()
    read = next((reader for pattern, reader in _SQLITE if pattern.search(name)), _any_scalar)
    return {_int64: "integer", _sqlite_decimal: "exact", _double: "double"}.get(read, "")


def sqlite_binder(declared: str, *, nullable: bool, strict: bool = False) -> Reader:
    """A reader that turns a JSON value into one of SQLite's storage classes, by the declared name of the type.

    As in SQLite, parts of the name decide (the column's affinity), and lengths and precisions are not enforced. A
    string that the affinity would turn into a number is rejected: ``0012`` in a column declared ``STRING`` would
    become 12.

    Args:
        declared: The declared name of the type, which may be empty.
        nullable: Whether the column may hold SQL's NULL.
        strict: Whether the table is STRICT: then SQLite does not turn strings of an ANY column into numbers.
    """
    name = declared.upper()
    read = next((reader for pattern, reader in _SQLITE if pattern.search(name)), _any_scalar)
    if read in (_any_scalar, values.text, _interval) and not strict and _makes_numbers(name):
        read = _no_number_as_string(read, declared)
    if read is _sqlite_json and (strict or not _makes_numbers(name)):
        read = values.json_text
    null = "null" if "JSON" in name and not nullable else None
    return lambda value: null if value is None else read(value)


def _makes_numbers(name: str) -> bool:
    """Whether a column's affinity turns strings into numbers: https://www.sqlite.org/datatype3.html, 3.1."""
    if "INT" in name:
        return True
    return bool(name) and not any(part in name for part in ("CHAR", "CLOB", "TEXT", "BLOB"))


# The strings that SQLite reads as numbers, with blanks at either end.
_NUMBER = re.compile(r"[ \t\n\v\f\r]*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[ \t\n\v\f\r]*", re.ASCII)


def _no_number_as_string(read: Reader, declared: str) -> Reader:
    def bind(value: Any) -> Any:
        if isinstance(value, str) and _NUMBER.fullmatch(value):
            raise BadValue(
                "a string that is not a number",
                f"SQLite would store it as a number in a column declared {declared} (a TEXT column keeps it)",
            )
        return read(value)

    return bind


def _interval(value: Any) -> str:
    # SQLite has no such type, and so no syntax to check: only a bare number without a unit is rejected.
    if not isinstance(value, str) or not value or _NUMBER.fullmatch(value):
        raise BadValue("an interval with its units, as PT5M or 1 day")
    return values.text(value)


def _sqlite_decimal(value: Any) -> int | float:
    number = _decimal(value)
    if number == number.to_integral_value() and INT64[0] <= number <= INT64[1]:
        return int(number)
    _, digits, _ = number.normalize().as_tuple()
    if len(digits) > SQLITE_DIGITS or not -300 < number.adjusted() < 300:
        raise BadValue(
            f"a decimal of at most {SQLITE_DIGITS} digits", "SQLite would round it (a TEXT column keeps all of them)"
        )
    return float(number)


def _sqlite_json(value: Any) -> str | float:
    # SQLite stores a document that is only a number as a number. A large integer would become a double, and SQLite may
    # not find the nearest double for a text with a point or an exponent.
    if isinstance(value, int) and not INT64[0] <= value <= INT64[1]:
        raise BadValue(f"JSON, or as its only value a whole number from {INT64[0]} to {INT64[1]}")
    return _double(value) if isinstance(value, float) else values.json_text(value)


def _any_scalar(value: Any) -> Any:
    if isinstance(value, str):
        return values.text(value)
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):
        return _int64(value)
    if isinstance(value, float):
        return _double(value)
    raise BadValue("a string, a number or a boolean")


def _sqlite_moment(zone: bool) -> Reader:
    read = values.timestamp_with_zone if zone else values.timestamp_without_zone

    def bind(value: Any) -> str:
        # The format of SQLAlchemy and of SQLite's functions, always with microseconds so that text sorts by time.
        return read(value).isoformat(" ", "microseconds")

    return bind


def _iso(read: Reader) -> Reader:
    return lambda value: read(value).isoformat()


_decimal = values.decimal()
_int64 = values.integer(*INT64)
_double = values.floating(nan=False)
_clock = values.clock_time(zone=False)
_clock_with_zone = values.clock_time(zone=True)


# The most specific name comes first: a TIMESTAMP is not a TIME, an INTERVAL and a POINT are not an INT.
_ZONED = r"(?:TZ|.*WITH (?:LOCAL )?TIME ZONE)"
_SQLITE: list[tuple[re.Pattern[str], Reader]] = [
    (re.compile(pattern), reader)
    for pattern, reader in (
        (rf"(?:TIMESTAMP|DATETIME){_ZONED}", _sqlite_moment(zone=True)),
        (r"TIMESTAMP|DATETIME", _sqlite_moment(zone=False)),
        (r"DATE", _iso(values.calendar_date)),
        (r"INTERVAL", _interval),
        (rf"TIME{_ZONED}", lambda value: _clock_with_zone(value).isoformat("microseconds")),
        (r"TIME", lambda value: _clock(value).isoformat("microseconds")),
        (r"UUID|GUID", values.uuid),
        (r"JSON", _sqlite_json),
        (r"BOOL", lambda value: int(values.boolean(value))),
        (r"DECIMAL|NUMERIC|MONEY", _sqlite_decimal),
        (r"REAL|FLOA|DOUB", _double),
        (r"(?<!PO)INT|SERIAL", _int64),
        (r"CHAR|CLOB|TEXT|STRING|ENUM", values.text),
        (r"BLOB|BINARY|BYTEA", values.base64_bytes),
    )
]
