"""A write in its caller's trace: it takes the span along that asks, and leads it to the batch."""

from __future__ import annotations

from collections.abc import Awaitable

from temporal_batching.contract import Confirmation, JsonObject
from temporal_batching.errors import WriteError
from temporal_batching.tracing import tracing


def traced(wire: JsonObject) -> JsonObject:
    """What is to be submitted, with the current span if there is one. Nothing that is decided here depends on it."""
    traceparent = tracing().traceparent()
    return wire if traceparent is None else {**wire, "traceparent": traceparent}


async def followed(write: Awaitable[Confirmation]) -> Confirmation:
    """The confirmation, to which the current span leads from now on.

    Raises:
        WriteError: As the write.
    """
    try:
        confirmation = await write
    except WriteError as err:
        if err.confirmation is not None:
            tracing().received(err.confirmation)
        raise
    tracing().received(confirmation)
    return confirmation
