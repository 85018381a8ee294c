"""What a worker says of itself and of its sink, when ``check`` asks it by an activity."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from temporalio import activity

from temporal_batching.contract import ACTIVITY_REPORT, DEFAULT_BATCHER
from temporal_batching.errors import SinkConfigurationError, SinkError
from temporal_batching.sinks.base import Sink
from temporal_batching.wire.addressee import check_batcher


@dataclass(frozen=True)
class SinkReport:
    """A sink as it is found.

    Attributes:
        kind: Its class.
        ledger: Its ledger's identity.
        problem: Why it takes no writes; None if it does.
        configuration: Whether the problem is one that does not pass by itself.
        ahead_seconds: By how much its clock is ahead of the one of who looked; None if it has none of its own.
        tables: What has to be repaired at the tables that it writes to.
        write_seconds: The longest that a write takes by its own limits; None if it has none.
    """

    kind: str
    ledger: str | None = None
    problem: str | None = None
    configuration: bool = False
    ahead_seconds: float | None = None
    tables: list[str] = field(default_factory=list)
    write_seconds: float | None = None


@dataclass(frozen=True)
class WorkerReport:
    """A worker as it sees itself.

    Attributes:
        identity: As Temporal lists it.
        version: Of this library.
        sink: Its sink; None if it has none.
        scheduled_at: When the server says that the question was asked, in seconds since the epoch.
        ahead_seconds: By how much its clock is ahead of the server's, with the way of the question to it.
    """

    identity: str
    version: str
    sink: SinkReport | None
    scheduled_at: float = 0.0
    ahead_seconds: float = 0.0


async def look_at_sink(sink: Sink, *, opened: bool = True) -> SinkReport:
    """Looks at a sink.

    Args:
        sink: The sink.
        opened: Whether it is open; otherwise it is opened and closed again.
    """
    kind = type(sink).__name__
    try:
        if not opened:
            await sink.open()
        before = time.time()
        clock = await sink.check()
        here = (before + time.time()) / 2
        ahead = None if clock is None else round(clock.timestamp() - here, 3)
        limit = sink.write_timeout
        return SinkReport(
            kind,
            sink.identity,
            ahead_seconds=ahead,
            tables=list(await sink.check_tables()),
            write_seconds=None if limit is None else limit.total_seconds(),
        )
    except SinkError as err:
        return SinkReport(kind, sink.identity, str(err), isinstance(err, SinkConfigurationError))
    except Exception as err:  # a sink of one's own; its text may quote anything
        return SinkReport(kind, sink.identity, f"{kind}.check raised {type(err).__name__}", configuration=True)
    finally:
        if not opened:
            await sink.close()


class Reporter:
    """Reports on one worker; `BatcherPlugin` makes one."""

    def __init__(self, sink: Sink | None, *, batcher: str = DEFAULT_BATCHER, identity: str = "") -> None:
        self._sink = sink
        self._batcher = batcher
        self._identity = identity

    @activity.defn(name=ACTIVITY_REPORT)
    async def batcher_report(self, batcher: str) -> WorkerReport:
        """What this worker says of itself."""
        check_batcher(batcher, self._batcher)
        now = time.time()
        info = activity.info()
        return WorkerReport(
            self._identity,
            library_version(),
            await look_at_sink(self._sink) if self._sink is not None else None,
            scheduled_at=info.scheduled_time.timestamp(),
            ahead_seconds=round(now - info.started_time.timestamp(), 3),
        )


def library_version() -> str:
    """The version of this library; empty in a source tree that is not installed."""
    try:
        return version("temporal-batching")
    except PackageNotFoundError:
        return ""
