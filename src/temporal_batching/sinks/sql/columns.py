"""The types of the columns of the sink's own tables, on each kind of database.

SQLite and PostgreSQL compare texts byte by byte. MariaDB does so only if it is told to, and its indexes need a length.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from temporal_batching.sinks.ledger import MAX_REQUEST_ID_BYTES

_MARIADB = ("mysql", "mariadb")
_EXACT: dict[str, Any] = {"charset": "utf8mb4", "collation": "utf8mb4_bin"}

MARIADB_TABLE: dict[str, Any] = {
    f"{name}_{option}": value
    for name in _MARIADB
    for option, value in (("engine", "InnoDB"), ("row_format", "DYNAMIC"), ("charset", "utf8mb4"))
}
"""The options of a table: InnoDB has transactions, and in this format a key may have 3,072 bytes."""


class _Utf8Bytes(sa.types.TypeDecorator[str]):
    """Text that is kept as its bytes, so that it compares exactly, case and trailing blanks included."""

    impl = sa.VARBINARY
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> Any:
        return None if value is None else value.encode()

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> str | None:
        return value.decode() if isinstance(value, bytes) else value


class _UtcMoment(sa.types.TypeDecorator[datetime]):
    """A moment as the clock of UTC showed it."""

    impl = mysql.DATETIME
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        return value if value is None or value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)


def request_id() -> sa.types.TypeEngine[Any]:
    """A request id that is a primary key."""
    return sa.Text().with_variant(_Utf8Bytes(MAX_REQUEST_ID_BYTES), *_MARIADB)


def key_text() -> sa.types.TypeEngine[Any]:
    """A short text that is a primary key."""
    return sa.Text().with_variant(mysql.VARCHAR(64, **_EXACT), *_MARIADB)


def short_text() -> sa.types.TypeEngine[Any]:
    """Text of any length that the sink itself writes."""
    return sa.Text().with_variant(mysql.TEXT(**_EXACT), *_MARIADB)


def long_text() -> sa.types.TypeEngine[Any]:
    """Text of any length that a request may contain."""
    return sa.Text().with_variant(mysql.LONGTEXT(**_EXACT), *_MARIADB)


def moment() -> sa.types.TypeEngine[Any]:
    """A moment, to the microsecond."""
    return sa.DateTime(timezone=True).with_variant(_UtcMoment(fsp=6), *_MARIADB)
