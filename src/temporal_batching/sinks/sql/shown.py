"""How the database's value of a column becomes JSON again: the way it would travel in.

Decimals, timestamps, dates, times and UUIDs are strings, bytes are base64, a document is JSON. A number that JSON does
not carry exactly, and an infinity, is a string.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from temporal_batching.wire.decoding import InexactNumber, decode_json


class Shown(NamedTuple):
    """How a column is read back.

    Attributes:
        sql: The expression that is read, with ``{}`` for the column.
        show: Makes JSON of the driver's value, which is not null.
    """

    sql: str
    show: Callable[[Any], Any]


def _as_it_is(value: Any) -> Any:
    return value


def _double(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _base64(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes | bytearray | memoryview) else value


def _document(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return _exact(decode_json(value))
    except (ValueError, RecursionError):
        return value


def _exact(value: Any) -> Any:
    """The same with strings in place of numbers that a double does not hold."""
    if isinstance(value, InexactNumber):
        return value.text
    if isinstance(value, dict):
        return {name: _exact(part) for name, part in value.items()}
    return [_exact(part) for part in value] if isinstance(value, list) else value


# PostgreSQL. As JSON a date has one syntax, whatever DateStyle is; the cast to text keeps the digits of numbers.
_NATIVE = "{}"
_TEXT = "{}::text"
_JSON = "to_jsonb({})::text"
# The first kind that matches decides, so a subtype precedes its base.
_POSTGRESQL: list[tuple[type[Any], Shown]] = [
    (sa.Boolean, Shown(_NATIVE, _as_it_is)),
    (pg.OID, Shown(_NATIVE, _as_it_is)),
    (sa.Float, Shown(_NATIVE, _double)),
    (sa.Integer, Shown(_NATIVE, _as_it_is)),
    (sa.LargeBinary, Shown(_NATIVE, _base64)),
    (sa.JSON, Shown(_TEXT, _document)),
    (sa.ARRAY, Shown(_JSON, _document)),
    (sa.DateTime, Shown(_JSON, _document)),
    (sa.Date, Shown(_JSON, _document)),
]


def postgresql_shown(column_type: sa.types.TypeEngine[Any]) -> Shown:
    """How a column of PostgreSQL is read back: what is not listed, in the text syntax of its type."""
    if isinstance(column_type, pg.DOMAIN):
        return postgresql_shown(column_type.data_type)
    return next((shown for kind, shown in _POSTGRESQL if isinstance(column_type, kind)), Shown(_TEXT, _as_it_is))


def _boolean(value: Any) -> Any:
    return bool(value) if value in (0, 1) else value


def _decimal(value: Any) -> Any:
    if isinstance(value, float):
        return repr(int(value)) if value.is_integer() else repr(value)
    return str(value) if isinstance(value, int) else value


def _moment(value: Any) -> Any:
    return value.replace(" ", "T", 1) if isinstance(value, str) else value


def _scalar(value: Any) -> Any:
    return _double(_base64(value))


_SQLITE: list[tuple[re.Pattern[str], Callable[[Any], Any]]] = [
    (re.compile(pattern), show)
    for pattern, show in (
        (r"TIMESTAMP|DATETIME", _moment),
        (r"JSON", _document),
        (r"BOOL", _boolean),
        (r"DECIMAL|NUMERIC|MONEY", _decimal),
    )
]


def sqlite_shown(declared: str) -> Shown:
    """How a column of SQLite is read back, by the declared name of its type."""
    name = declared.upper()
    return Shown(_NATIVE, next((show for pattern, show in _SQLITE if pattern.search(name)), _scalar))


_AS_CHARACTERS = "CAST({} AS CHAR)"
_MARIADB_NATIVE = ("int", "float", "double", "year")


def mariadb_shown(kind: str, declared: str, *, json: bool) -> Shown:
    """How a column of MariaDB is read back, by the name of its type in the catalog."""
    if declared == "tinyint(1)":
        return Shown(_NATIVE, _boolean)
    if json:
        return Shown(_NATIVE, _document)
    if kind in ("datetime", "timestamp"):
        return Shown(_AS_CHARACTERS, _moment)
    if kind.endswith(_MARIADB_NATIVE):
        return Shown(_NATIVE, _as_it_is)
    if kind.endswith(("blob", "binary")) or kind == "bit":
        return Shown(_NATIVE, _base64)
    return Shown(_AS_CHARACTERS, _as_it_is)


def returned_size(returned: Any) -> int:
    """Bytes of what a request returns, as it travels."""
    return len(json.dumps(returned, separators=(",", ":")))
