"""`SqlSink`: SQLite, PostgreSQL and MariaDB, ledger and rows in one transaction."""

from importlib.util import find_spec

if find_spec("sqlalchemy") is None:
    raise ImportError("SqlSink needs SQLAlchemy: install temporal-batching[sql]")

from temporal_batching.sinks.rules import TableRule
from temporal_batching.sinks.sql.database import SinkCounters
from temporal_batching.sinks.sql.sink import SqlSink

__all__ = ["SinkCounters", "SqlSink", "TableRule"]
