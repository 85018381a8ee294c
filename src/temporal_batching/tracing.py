"""The place of tracing in this library: what it asks of OpenTelemetry, which it never imports by itself.

Where a process uses OpenTelemetry, `tracing` finds it, and gives `temporal_batching.opentelemetry`'s answers; elsewhere
nothing is traced, and nothing travels. A workflow cannot look for it, for its sandbox has modules of its own: there it
has to be found before, as `BatcherPlugin` and `GatewayPlugin` do.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import TYPE_CHECKING

from temporalio import workflow

if TYPE_CHECKING:
    from temporalio.client import Client

    from temporal_batching.contract import Confirmation, FlushInput, ParcelReceipt
    from temporal_batching.flush.settlement import BatchResult
    from temporal_batching.wire.submission import Submission


class FlushSpan:
    """The span of one flush. This one records nothing.

    Attributes:
        traceparent: What leads to it; None if nobody keeps it.
    """

    traceparent: str | None = None

    def settled(self, result: BatchResult, *, requests: int) -> None:
        """The batch has its outcomes, and they are on their way to the callers.

        Args:
            result: What became of it.
            requests: How many were in it.
        """


class Tracing:
    """What the library asks. This one knows of no trace."""

    def traceparent(self) -> str | None:
        """What leads to the current span; None if there is none, or if nobody keeps it."""
        return None

    def received(self, answer: Confirmation | ParcelReceipt) -> None:
        """A caller has its answer: its current span leads to the batch from now on."""

    def flush(self, flush: FlushInput, submissions: Sequence[Submission]) -> AbstractContextManager[FlushSpan]:
        """The span of a flush, for the length of a block; it leads to the callers of what is flushed."""
        return nullcontext(FlushSpan())

    def untraced(self, client: Client) -> Client:
        """The same client, whose calls belong to nobody's trace.

        For what is done for many callers at once. And a workflow that is started in a trace stays in it, with all it
        does: a shard would fill the trace of its first caller for as long as it lives.
        """
        return client

    def finish(self) -> None:
        """The process ends: what waits to be published is published now."""


_api = "opentelemetry.trace"
_adapter = "temporal_batching.opentelemetry"
_found = Tracing()


def tracing() -> Tracing:
    """Who traces in this process."""
    if type(_found) is Tracing and _api in sys.modules and not workflow.in_workflow():
        import_module(_adapter)  # which calls `use`
    return _found


def use(found: Tracing) -> None:
    """Has this one answer from now on."""
    global _found
    _found = found
