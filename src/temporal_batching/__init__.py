"""Batch the writes of many Temporal workflows into few database transactions, each exactly once."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from temporal_batching.process_exit import wait_at_exit

if TYPE_CHECKING:
    from temporal_batching.batcher.handle import BatcherHandle
    from temporal_batching.batcher.workflow import BatcherWorkflow
    from temporal_batching.contract import (
        BatcherStats,
        Confirmation,
        Outcome,
        OutcomeKind,
        Record,
        RejectCode,
        Returned,
        WriteRequest,
    )
    from temporal_batching.errors import (
        AddressUnusable,
        AuditError,
        BatcherNotRunning,
        BatchingError,
        InvalidAudit,
        InvalidLoad,
        InvalidPolicy,
        InvalidRequest,
        SinkConfigurationError,
        SinkError,
        SinkUnavailable,
        WriteError,
        WriteExpired,
        WriteNotConfirmed,
        WriteNotSubmitted,
        WriteRejected,
    )
    from temporal_batching.flush_plugin import FlushPlugin
    from temporal_batching.metrics.runtime import batching_runtime
    from temporal_batching.plugin import BatcherPlugin, GatewayPlugin
    from temporal_batching.policy import BatchPolicy
    from temporal_batching.serving import run_worker
    from temporal_batching.sinks.base import Batch, Sink
    from temporal_batching.sinks.console import ConsoleSink
    from temporal_batching.sinks.dead_letters import DeadLetter
    from temporal_batching.sinks.memory import MemorySink
    from temporal_batching.sinks.rules import TableRule
    from temporal_batching.sinks.sql import SqlSink
    from temporal_batching.writers.client import BatchClient
    from temporal_batching.writers.parcels import WriteResult
    from temporal_batching.writers.writer import BatchWriter

# Where each public name lives. Loaded on first use: a workflow that only writes does not import the client and the
# worker's side, and SQLAlchemy is imported only with SqlSink.
_HOMES = {
    "batcher.handle": ["BatcherHandle"],
    "batcher.workflow": ["BatcherWorkflow"],
    "contract": [
        "BatcherStats",
        "Confirmation",
        "Outcome",
        "OutcomeKind",
        "Record",
        "RejectCode",
        "Returned",
        "WriteRequest",
    ],
    "errors": [
        "AddressUnusable",
        "AuditError",
        "BatcherNotRunning",
        "BatchingError",
        "InvalidAudit",
        "InvalidLoad",
        "InvalidPolicy",
        "InvalidRequest",
        "SinkConfigurationError",
        "SinkError",
        "SinkUnavailable",
        "WriteError",
        "WriteExpired",
        "WriteNotConfirmed",
        "WriteNotSubmitted",
        "WriteRejected",
    ],
    "metrics.runtime": ["batching_runtime"],
    "flush_plugin": ["FlushPlugin"],
    "plugin": ["BatcherPlugin", "GatewayPlugin"],
    "policy": ["BatchPolicy"],
    "serving": ["run_worker"],
    "sinks.base": ["Batch", "Sink"],
    "sinks.console": ["ConsoleSink"],
    "sinks.dead_letters": ["DeadLetter"],
    "sinks.memory": ["MemorySink"],
    "sinks.rules": ["TableRule"],
    "sinks.sql": ["SqlSink"],
    "writers.client": ["BatchClient"],
    "writers.parcels": ["WriteResult"],
    "writers.writer": ["BatchWriter"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AddressUnusable",
    "AuditError",
    "Batch",
    "BatchClient",
    "BatchPolicy",
    "BatchWriter",
    "BatcherHandle",
    "BatcherNotRunning",
    "BatcherPlugin",
    "BatcherStats",
    "BatcherWorkflow",
    "BatchingError",
    "Confirmation",
    "ConsoleSink",
    "DeadLetter",
    "FlushPlugin",
    "GatewayPlugin",
    "InvalidAudit",
    "InvalidLoad",
    "InvalidPolicy",
    "InvalidRequest",
    "MemorySink",
    "Outcome",
    "OutcomeKind",
    "Record",
    "RejectCode",
    "Returned",
    "Sink",
    "SinkConfigurationError",
    "SinkError",
    "SinkUnavailable",
    "SqlSink",
    "TableRule",
    "WriteError",
    "WriteExpired",
    "WriteNotConfirmed",
    "WriteNotSubmitted",
    "WriteRejected",
    "WriteRequest",
    "WriteResult",
    "batching_runtime",
    "run_worker",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


wait_at_exit()
