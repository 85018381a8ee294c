"""What do more callers at a time change, without linger?"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.curve import Figure, curve_part, curve_plots
from benchmarks.harness.measure import Load
from benchmarks.question import Part, Question, Wanted
from benchmarks.report import Line, Report
from benchmarks.rounding import milliseconds
from benchmarks.targets import at_most

CURVE = "callers in flight"
WAYS = ("direct", "activity", "local")


def _parts(wanted: Wanted) -> list[Part]:
    few = Load(warm_up=30, idle_seconds=2.0, linger=0.0)
    each = {1: 30, 10: 100, 100: 300, 1000: 1000}
    at = [(callers, replace(few, writes=writes, callers=callers)) for callers, writes in each.items()]
    return [curve_part(CURVE, way, way, at, timeout=240) for way in WAYS if way in wanted.ways]


def _answer(report: Report) -> list[str]:
    figures: dict[str, Figure] = {
        "Throughput": ("writes per second", lambda r: r.writes_per_second),
        "Confirmation p50": ("ms", lambda r: milliseconds(r.latency, "p50")),
        "Persistence requests": ("requests per write", lambda r: r.persistence_per_write),
    }
    return curve_plots(report, CURVE, figures)


def _targets(report: Report) -> list[Line]:
    direct = report.at(CURVE, "direct", 1)
    found = [r for way in ("local", "activity") if (r := report.at(CURVE, way, 1))]
    ratio = None
    if direct and direct.latency and found:
        ratio = max(r.latency["p50"] for r in found) / direct.latency["p50"]
    return [at_most("confirmation p50, no linger, idle batcher, the worse gateway", 2, ratio, " x direct")]


QUESTION = Question(
    name="callers",
    asks="What do more callers at a time change, without linger?",
    parts=_parts,
    answer=_answer,
    targets=_targets,
)
