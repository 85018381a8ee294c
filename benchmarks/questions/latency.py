"""How long does a caller wait, when the batcher has half of what it can bear?"""

from __future__ import annotations

from benchmarks.charts import bars
from benchmarks.harness.databases import BenchDatabase
from benchmarks.harness.measure import Load, measure
from benchmarks.markup import plots
from benchmarks.question import Part, Progress, Question, Wanted
from benchmarks.report import Line, Report
from benchmarks.rounding import milliseconds, number
from benchmarks.targets import at_most, not_measured

WAY = "local"
LINGER = 2.0
USUAL_RATE = 40.0
"""Writes per second to take the half of where no way has been measured before."""
ALLOWED_DELAY_MS = 250.0


def _parts(wanted: Wanted) -> list[Part]:
    if WAY not in wanted.ways:
        return []
    writes = 60 if wanted.quick else 300

    async def run(report: Report, database: BenchDatabase, progress: Progress) -> None:
        known = report.of(WAY)
        rate = round((known.writes_per_second if known else USUAL_RATE) / 2, 1)
        idle = 1.0 if wanted.quick else 2.0
        load = Load(writes=writes, callers=10_000, rate=rate, linger=LINGER, warm_up=60, idle_seconds=idle)
        (report.half_load,) = await measure(WAY, [load], database, progress)

    return [Part("latency at half load", writes, 120, run)]


def _answer(report: Report) -> list[str]:
    result = report.half_load
    if result is None or not result.latency:
        return []
    linger = float(result.load["linger"])
    title = f"{number(result.load['rate'])} writes/s, linger {number(linger)} s, gateway in the caller's worker"
    quantiles = {name: milliseconds(result.latency, name) for name in ("p50", "p95", "p99")}
    return [plots([bars(title, "ms until confirmed", quantiles, target=("linger", 1000 * linger))])]


def _targets(report: Report) -> list[Line]:
    result = report.half_load
    if result is None:
        return [not_measured("confirmation p99 at half load", "≤ linger + 250 ms")]
    linger = 1000 * float(result.load["linger"])
    name = f"confirmation p99 at half load, linger {number(linger)} ms, {number(result.load['rate'])} writes/s"
    return [at_most(name, linger + ALLOWED_DELAY_MS, milliseconds(result.latency, "p99"), " ms")]


QUESTION = Question(
    name="latency",
    asks="How long does a caller wait at half load?",
    parts=_parts,
    answer=_answer,
    targets=_targets,
    quick=True,
)
