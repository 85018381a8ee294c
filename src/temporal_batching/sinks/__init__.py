"""Where batches are written. `SqlSink` is imported on first use: the others need neither SQLAlchemy nor a driver."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from temporal_batching.sinks.base import Batch, Sink
from temporal_batching.sinks.console import ConsoleSink
from temporal_batching.sinks.key_order import write_in_key_order
from temporal_batching.sinks.ledger import LedgerEntry, LedgerStatus, digest, judge
from temporal_batching.sinks.memory import MemorySink
from temporal_batching.sinks.rules import TableRule

if TYPE_CHECKING:
    from temporal_batching.sinks.sql import SqlSink

__all__ = [
    "Batch",
    "ConsoleSink",
    "LedgerEntry",
    "LedgerStatus",
    "MemorySink",
    "Sink",
    "SqlSink",
    "TableRule",
    "digest",
    "judge",
    "write_in_key_order",
]


def __getattr__(name: str) -> Any:
    if name == "SqlSink":
        from temporal_batching.sinks.sql import SqlSink

        return SqlSink
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
