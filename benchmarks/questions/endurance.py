"""Does a write cost the same after a hundred thousand others, and does the worker's memory stay flat?"""

from __future__ import annotations

import statistics
from dataclasses import replace

from benchmarks.charts import curves
from benchmarks.curve import curve_part
from benchmarks.harness.measure import Load
from benchmarks.markup import plots
from benchmarks.question import Part, Question, Wanted
from benchmarks.questions.many import LINGER
from benchmarks.report import Line, Point, Report, Result
from benchmarks.targets import at_most, not_measured, ratio

CURVE = "writes"
MANY_WRITES = 100_000
FLAT = 0.10


def _parts(wanted: Wanted) -> list[Part]:
    if "write_many" not in wanted.ways:
        return []
    load = Load(batch_size=1_000, linger=LINGER, warm_up=2_000, idle_seconds=3.0)
    at = [(writes, replace(load, writes=writes)) for writes in (1_000, 10_000, MANY_WRITES)]
    return [curve_part(CURVE, "write_many", "write_many", at, timeout=240)]


def _points(report: Report) -> list[Point]:
    return sorted(report.curve(CURVE), key=lambda point: point.x)


def _answer(report: Report) -> list[str]:
    points = _points(report)
    if not points:
        return []
    drawn = [
        curves(
            "Persistence over writes",
            "writes",
            "requests per record",
            {"write_many": [(p.x, p.result.persistence_per_write) for p in points]},
        ),
        curves(
            "Throughput over writes",
            "writes",
            "records per second",
            {"write_many": [(p.x, p.result.writes_per_second) for p in points]},
        ),
    ]
    memory = points[-1].result.memory
    if len(memory) > 1:
        lines = {"batcher's worker": [(s[0], s[2]) for s in memory], "Temporal": [(s[0], s[3]) for s in memory]}
        title = f"Memory over {points[-1].x:,.0f} writes by write_many"
        drawn.append(curves(title, "seconds", "MiB", lines, log=False, marks=False))
    return [plots(drawn)]


def memory_growth(result: Result) -> float | None:
    """How much larger the worker was towards the end than after its first fifth, as a share."""

    def median(low: float, high: float) -> float:
        return statistics.median([s[2] for s in result.memory if low <= s[1] / result.writes <= high] or [0.0])

    early, late = median(0.2, 0.5), median(0.8, 1.0)
    return late / early - 1 if early and late else None


def _targets(report: Report) -> list[Line]:
    points = _points(report)
    lines = [_memory(points)]
    if len(points) > 1:
        first, last = points[0], points[-1]
        # Not a target with a number of its own: the cost of a write must stay flat as writes grow.
        lines.append(
            at_most(
                f"persistence per write, {last.x:,.0f} writes compared with {first.x:,.0f}",
                1.1,
                ratio(last.result, first.result, "persistence_per_write"),
                " x",
            )
        )
    return lines


def _memory(points: list[Point]) -> Line:
    name, target = f"batcher worker's memory over {MANY_WRITES:,} writes", "flat within 10 %"
    growth = memory_growth(points[-1].result) if points and points[-1].x >= MANY_WRITES else None
    if growth is None:
        return not_measured(name, target)
    return name, target, f"{100 * growth:+.1f} %", abs(growth) <= FLAT or growth < 0


QUESTION = Question(
    name="writes",
    asks="Does a write cost the same after many others?",
    parts=_parts,
    answer=_answer,
    targets=_targets,
)
