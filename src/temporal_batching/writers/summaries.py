"""Summaries of the writers' activities in the Web UI: tables and numbers, nothing of what is written. Each is short."""

from __future__ import annotations

from temporal_batching.contract import JsonObject

MAX_SUMMARY = 200
"""Characters: it is stored with its activity, and a caller may write to any number of tables."""

WITHDRAWAL = "takes a cancelled write back"
RETRY = "until the next signal to the batcher"


def write_summary(wire: JsonObject) -> str:
    """Of a request."""
    tables = list(dict.fromkeys(record["table"] for record in wire["records"]))
    count = len(wire["records"])
    return f"{count} record{'s' if count > 1 else ''} to {', '.join(tables)}"[:MAX_SUMMARY]


def returned_summary(requests: int) -> str:
    """Of what requests returned."""
    return f"what {requests} request{'s' if requests > 1 else ''} returned"
