"""The reader of each column type of MariaDB: it turns a JSON value into a literal of SQL.

All rows of a statement are literals in its text: MariaDB has no arrays to unnest, and its driver sends no parameters
apart. Literals are exact: a decimal has no exponent (with one it would be a double), a double has one, a
string is quoted so that it stays one string in every mode of the server, bytes are hexadecimal.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any

from temporal_batching.sinks.sql import values
from temporal_batching.sinks.sql.values import BadValue, Reader

MARIADB_NULL = "NULL"

MAX_DIGITS = 65
"""Digits of MariaDB's DECIMAL."""

_EXACT = Context(prec=MAX_DIGITS + 40)
"""A number of 65 digits with 38 after the point is rounded without a loss before its last digit."""

_SPECIAL = re.compile(r"['\\\x00]")
_REPLACED = {"'": "''", "\\": "\\\\", "\x00": "\\0"}


def quoted(text: str) -> str:
    """A string literal.

    A quote is doubled, not escaped: even if the server took backslashes literally, no value could end the literal.
    """
    if _SPECIAL.search(text):
        text = _SPECIAL.sub(lambda match: _REPLACED[match[0]], text)
    return f"'{text}'"


def binary(content: bytes) -> str:
    """A literal of bytes."""
    return f"x'{content.hex()}'"


@dataclass(frozen=True, kw_only=True)
class ColumnType:
    """A column's type, as MariaDB's catalog describes it.

    Attributes:
        kind: The name of the type, ``varchar``.
        declared: The whole type, ``varchar(30)``.
        precision: Digits, bits.
        scale: Digits after the point.
        length: The longest string, in characters or bytes.
        json: Whether a CHECK keeps the column JSON.
        nullable: Whether the column may hold SQL's NULL.
    """

    kind: str
    declared: str
    precision: int | None = None
    scale: int | None = None
    length: int | None = None
    json: bool = False
    nullable: bool = True

    @property
    def unsigned(self) -> bool:
        """Whether it holds no negative numbers."""
        return "unsigned" in self.declared

    @property
    def labels(self) -> list[str]:
        """The labels of an ENUM or a SET."""
        return [_LABEL_ESCAPE.sub(_unescaped, label) for label in re.findall(r"'((?:[^']|'')*)'", self.declared)]


_LABEL_ESCAPE = re.compile(r"''|\\(.)", re.DOTALL)
_ESCAPED = {"0": "\x00", "n": "\n", "r": "\r", "Z": "\x1a"}


def _unescaped(match: re.Match[str]) -> str:
    escaped = match[1]
    return "'" if escaped is None else _ESCAPED.get(escaped, escaped)


def mariadb_number(column: ColumnType) -> str:
    """The kind of a type that holds numbers, as `BoundColumn.number` has it; empty for any other type."""
    if column.declared == "tinyint(1)":
        return ""
    if column.kind.endswith("int"):
        return "integer"
    return {"decimal": "exact", "float": "double", "double": "double"}.get(column.kind, "")


def mariadb_binder(column: ColumnType) -> Reader:
    """A reader that turns a JSON value, null included, into a literal."""
    read = _reader(column)
    null = quoted("null") if column.json and not column.nullable else MARIADB_NULL
    if column.kind == "timestamp" and not column.nullable:
        # Some servers turn a null in such a column into the current time.
        return read
    return lambda value: null if value is None else read(value)


def _reader(column: ColumnType) -> Callable[[Any], str]:
    if column.json or column.kind == "json":
        return _text(values.json_text)
    if column.declared == "tinyint(1)":
        return _boolean
    make = _READERS.get(column.kind)
    return _other if make is None else make(column)


def _boolean(value: Any) -> str:
    return "1" if values.boolean(value) else "0"


def _other(value: Any) -> str:
    """Reads other types (addresses, geometries, ...) as strings in the syntax of the type."""
    if isinstance(value, str):
        return quoted(values.text(value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return quoted(repr(value))
    raise BadValue("a string in the syntax of the column's type")


def _text(read: Reader) -> Callable[[Any], str]:
    return lambda value: quoted(read(value))


def _integers(bits: int) -> Callable[[ColumnType], Callable[[Any], str]]:
    def make(column: ColumnType) -> Callable[[Any], str]:
        low, high = (0, 2**bits - 1) if column.unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        read = values.integer(low, high)
        return lambda value: str(read(value))

    return make


def _decimal(column: ColumnType) -> Callable[[Any], str]:
    precision, scale = column.precision or 10, column.scale or 0
    read = values.decimal(precision, scale)
    step, bound = Decimal(1).scaleb(-scale), Decimal(1).scaleb(precision - scale)
    # Most decimals are a few digits in a string: they fit without arithmetic.
    sign = "" if column.unsigned else "-?"
    whole = precision - scale
    quick = re.compile(
        rf"{sign}[0-9]{{{0 if whole < 1 else 1},{max(whole, 0)}}}(?:\.[0-9]{{1,{max(scale, 1)}}})?", re.ASCII
    )

    def bind(value: Any) -> str:
        if scale and whole > 0 and isinstance(value, str) and quick.fullmatch(value):
            return value
        # As the database would round it, but a number that is too long for a literal can be rounded too.
        number = read(value)
        rounded = Decimal(0) if number.adjusted() < -scale - 1 else number.quantize(step, ROUND_HALF_UP, _EXACT)
        if rounded.copy_abs() >= bound:
            raise BadValue(f"a decimal number with at most {whole} digits before the point")
        if column.unsigned and rounded < 0:
            raise BadValue("a decimal number that is not negative")
        return format(rounded, "f")

    return bind


def _double(column: ColumnType) -> Callable[[Any], str]:
    read = values.floating(nan=False, infinity=False)

    def bind(value: Any) -> str:
        # With an exponent it is a double, otherwise it would be a decimal.
        text = repr(read(value))
        return text if "e" in text else f"{text}e0"

    return bind


def _bits(column: ColumnType) -> Callable[[Any], str]:
    width = column.precision or 1
    form = re.compile(rf"[01]{{1,{width}}}", re.ASCII)

    def bind(value: Any) -> str:
        if width == 1 and isinstance(value, bool):
            return "b'1'" if value else "b'0'"
        if isinstance(value, str) and form.fullmatch(value):
            return f"b'{value}'"
        raise BadValue(f"a string of at most {width} binary digits" + (", true or false" if width == 1 else ""))

    return bind


def _enum(column: ColumnType) -> Callable[[Any], str]:
    return _text(values.one_of(column.labels))


def _set(column: ColumnType) -> Callable[[Any], str]:
    labels = column.labels
    read = values.one_of(labels)

    def bind(value: Any) -> str:
        if not isinstance(value, list):
            raise BadValue("a list of labels")
        chosen = set()
        for item in value:
            try:
                chosen.add(read(item))
            except BadValue as err:
                raise BadValue(f"a list, each element {err.expected}", element=values.show(item)) from None
        return quoted(",".join(label for label in labels if label in chosen))

    return bind


def _bytes(column: ColumnType) -> Callable[[Any], str]:
    exact = column.length if column.kind == "binary" else None

    def bind(value: Any) -> str:
        content = values.base64_bytes(value)
        if exact is not None and len(content) != exact:
            # A shorter value would be padded with zeros.
            raise BadValue(f"exactly {exact} bytes as a base64 string")
        return binary(content)

    return bind


def _moment(read: Callable[[Any], datetime]) -> Callable[[ColumnType], Callable[[Any], str]]:
    def bind(value: Any) -> str:
        return f"'{read(value).replace(tzinfo=None).isoformat(' ')}'"

    return lambda _: bind


def _instant(value: Any) -> datetime:
    values.timestamp_with_zone(value)
    # The session's time zone is UTC.
    return values.timestamp_without_zone(value)


def _date(value: Any) -> str:
    day: date = values.calendar_date(value)
    return f"'{day.isoformat()}'"


_clock = values.clock_time(zone=False)


def _time(value: Any) -> str:
    moment: time = _clock(value)
    return f"'{moment.isoformat()}'"


_READERS: dict[str, Callable[[ColumnType], Callable[[Any], str]]] = {
    "tinyint": _integers(8),
    "smallint": _integers(16),
    "mediumint": _integers(24),
    "int": _integers(32),
    "bigint": _integers(64),
    "year": lambda _: _year,
    "decimal": _decimal,
    "float": _double,
    "double": _double,
    "bit": _bits,
    **dict.fromkeys(("char", "varchar", "tinytext", "text", "mediumtext", "longtext"), lambda _: _text(values.text)),
    "enum": _enum,
    "set": _set,
    **dict.fromkeys(("binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"), _bytes),
    "datetime": _moment(values.timestamp_without_zone),
    "timestamp": _moment(_instant),
    "date": lambda _: _date,
    "time": lambda _: _time,
    "uuid": lambda _: _text(values.uuid),
}

_whole_year = values.integer(1901, 2155)


def _year(value: Any) -> str:
    return str(_whole_year(value))
