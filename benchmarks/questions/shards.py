"""What do more shards change, on one machine with one server?"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.curve import Figure, curve_part, curve_plots
from benchmarks.harness.measure import Load
from benchmarks.question import Part, Question, Wanted
from benchmarks.questions.many import LINGER
from benchmarks.report import Report

CURVE = "shards"


def _parts(wanted: Wanted) -> list[Part]:
    few = Load(warm_up=1_000, idle_seconds=2.0, linger=LINGER, writes=15_000, batch_size=500)
    at = [(shards, replace(few, shards=shards)) for shards in (1, 2, 4, 8)]
    return [curve_part(CURVE, "write_many", "write_many", at, timeout=180)]


def _answer(report: Report) -> list[str]:
    figures: dict[str, Figure] = {
        "Throughput": ("records per second", lambda r: r.writes_per_second),
    }
    return curve_plots(report, CURVE, figures)


QUESTION = Question(
    name="shards",
    asks="What do more shards change, on this machine?",
    parts=_parts,
    answer=_answer,
)
