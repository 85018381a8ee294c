"""Questions whose answer is a curve: one way of writing, measured at several values of one thing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from benchmarks.charts import curves
from benchmarks.harness.databases import BenchDatabase
from benchmarks.harness.measure import Load, measure
from benchmarks.markup import plots
from benchmarks.question import Part, Progress
from benchmarks.report import Point, Report, Result

Figure = tuple[str, Callable[[Result], float]]
"""The unit, and where the figure is in a result."""


def curve_part(curve: str, line: str, way: str, at: Sequence[tuple[float, Load]], *, timeout: float) -> Part:
    """Points of one line. Loads whose batcher has the same limits share servers and workers."""

    async def run(report: Report, database: BenchDatabase, progress: Progress) -> None:
        alike = len({(load.batch_size, load.linger, load.shards) for _, load in at}) == 1
        if alike:
            results = await measure(way, [load for _, load in at], database, progress)
            found: list[tuple[float, Result]] = [(x, r) for (x, _), r in zip(at, results, strict=True)]
            report.points += [Point(curve, line, x, result) for x, result in found]
            return
        for x, load in at:
            for result in await measure(way, [load], database, progress):
                report.points.append(Point(curve, line, x, result))

    return Part(f"{curve}: {line}", max(load.writes for _, load in at), timeout, run)


def curve_plots(report: Report, curve: str, figures: Mapping[str, Figure]) -> list[str]:
    """One plot for each figure, by its title; none where there are no two points to connect."""
    lines: dict[str, list[tuple[float, Result]]] = {}
    for point in report.curve(curve):
        lines.setdefault(point.line, []).append((point.x, point.result))
    if not any(len(line) > 1 for line in lines.values()):
        return []
    drawn = [
        curves(title, curve, unit, {name: [(x, figure(result)) for x, result in line] for name, line in lines.items()})
        for title, (unit, figure) in figures.items()
    ]
    return [plots(drawn)]
