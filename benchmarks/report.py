"""All that was measured, as data, and as `report.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

NOTE = (
    "Counts depend little on the machine. Two parts of them do: the server reads its queues once for many tasks where "
    "it is busy, and how many requests travel in one update depends on how many arrive while the gateway gathers. The "
    "requests for the workflows themselves are the steadiest figure. "
    "Everything in seconds (writes/s, latencies, CPU) depends on the machine and on what else runs on it: read ratios."
)

Line = tuple[str, str, str, bool | None]
"""Of the targets: figure, target, measured, and whether it is met; None where it was not measured."""


@dataclass
class Result:
    """What one way of writing cost. Figures named ``per_write`` have the idle rate subtracted.

    None stands for what the database does not count. Latencies and stages are quantiles in seconds; ``memory`` holds
    [seconds, writes confirmed, MiB of the workers, MiB of Temporal].
    """

    way: str
    writes: int
    seconds: float
    persistence_per_write: float
    frontend_per_write: float
    service_per_write: float
    actions_metric_per_write: float
    actions_per_write: float
    actions_of: dict[str, float]
    caller_events: float
    caller_bytes: float
    batcher_events_per_write: float
    batcher_bytes_per_write: float
    batcher_runs: int
    transactions_per_write: float
    statements_per_write: float
    wal_bytes_per_write: float | None
    wal_fsyncs_per_write: float | None
    cpu_ms_per_write: dict[str, float]
    latency: dict[str, float]
    stages: dict[str, dict[str, float]]
    writes_per_second: float
    idle_persistence_per_second: float
    persistence_of: dict[str, float] = field(default_factory=dict)
    frontend_of: dict[str, float] = field(default_factory=dict)
    load: dict[str, Any] = field(default_factory=dict)
    memory: list[list[float]] = field(default_factory=list)
    problem: str = ""


@dataclass(frozen=True)
class Point:
    """One measurement of a curve, or of a question whose answer has several lines."""

    curve: str
    line: str
    x: float
    result: Result


@dataclass(frozen=True)
class LimitPoint:
    """One way of writing to a database that is far away.

    Attributes:
        line: The way, and its connections.
        round_trip_ms: To the database, as it was set.
        measured_ms: The same, as a connection of its own saw it before the writes.
        writes: Writes measured, after a warm-up.
        latency: Until a caller knew, as quantiles in seconds.
        connections: That the database had open, at most.
        transactions_per_write: Those that wrote.
        fsyncs_per_write: WAL flushes, the warm-up included.
        in_transaction: Transactions open at a time, on average.
        lock_waits: Connections that waited for a lock at a time, on average.
        others: How long somebody else's transaction on the same database took, as quantiles in seconds.
    """

    line: str
    round_trip_ms: float
    measured_ms: float
    writes: int
    seconds: float
    writes_per_second: float
    latency: dict[str, float]
    connections: int
    transactions_per_write: float
    fsyncs_per_write: float
    in_transaction: float
    lock_waits: float
    others: dict[str, float]


@dataclass
class Limit:
    """A database that is the limit.

    Attributes:
        points: In the order of their lines.
        others_alone: How long somebody else's transaction takes while nobody writes, as quantiles in seconds.
    """

    points: list[LimitPoint] = field(default_factory=list)
    others_alone: dict[str, float] = field(default_factory=dict)

    def at(self, line: str, round_trip_ms: float) -> LimitPoint | None:
        return next((p for p in self.points if (p.line, p.round_trip_ms) == (line, round_trip_ms)), None)


@dataclass(frozen=True)
class Idle:
    """What was added while nothing was written.

    Attributes:
        seconds: How long it was really watched.
        events: History events of the batcher.
        persistence: Persistence requests of the whole server, which has chores of its own.
        worker_cpu: Seconds of CPU of the batcher's worker.
    """

    seconds: float
    events: int
    persistence: int
    worker_cpu: float


@dataclass
class SinkRates:
    """Rows per second: size of the batches to way to median."""

    server: str
    rates: dict[int, dict[str, float]] = field(default_factory=dict)
    round_trips: int = 0
    statements: int = 0


@dataclass
class Report:
    """All that was measured, and where.

    Attributes:
        machine: Where and with what.
        results: The ways of writing, under the same load.
        points: Of the curves.
        limit: A database that is the limit.
        half_load: One way at half the rate it is capable of.
        sink: `SqlSink` by itself.
        idle: A batcher without writes.
        failures: Title of a part to what went wrong, or why it was left out.
        targets: Of all questions.
        seconds: Title of a part to how long it took.
    """

    machine: dict[str, Any]
    results: list[Result] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    limit: Limit = field(default_factory=Limit)
    half_load: Result | None = None
    sink: SinkRates | None = None
    idle: Idle | None = None
    failures: dict[str, str] = field(default_factory=dict)
    targets: list[Line] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def of(self, way: str) -> Result | None:
        return next((r for r in self.results if r.way == way), None)

    def at(self, curve: str, line: str, x: float) -> Result | None:
        return next((p.result for p in self.points if (p.curve, p.line, p.x) == (curve, line, x)), None)

    def curve(self, curve: str) -> list[Point]:
        return [point for point in self.points if point.curve == curve]

    def save_json(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        data = {"note": NOTE, **asdict(self)}
        (directory / "report.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> Report:
    """The report that `Report.save_json` wrote."""
    data = json.loads(path.read_text(encoding="utf-8"))
    data.pop("note")
    data["results"] = [Result(**r) for r in data["results"]]
    data["points"] = [Point(**{**p, "result": Result(**p["result"])}) for p in data["points"]]
    data["limit"] = load_limit(data["limit"])
    data["half_load"] = Result(**data["half_load"]) if data["half_load"] else None
    data["idle"] = Idle(**data["idle"]) if data["idle"] else None
    data["targets"] = [(t[0], t[1], t[2], t[3]) for t in data["targets"]]
    if data["sink"]:
        rates = {int(size): rate for size, rate in data["sink"]["rates"].items()}
        data["sink"] = SinkRates(**{**data["sink"], "rates": rates})
    return Report(**data)


def load_limit(data: dict[str, Any]) -> Limit:
    return Limit([LimitPoint(**point) for point in data["points"]], data["others_alone"])
