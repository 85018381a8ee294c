"""What does the size of a record change, for a program?"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.curve import Figure, curve_part, curve_plots
from benchmarks.harness.measure import Load
from benchmarks.question import Part, Question, Wanted
from benchmarks.questions.many import LINGER
from benchmarks.report import Report

CURVE = "bytes in a record"


def _parts(wanted: Wanted) -> list[Part]:
    few = Load(warm_up=100, idle_seconds=2.0, linger=LINGER)
    at = [
        (size, replace(few, record_bytes=size, writes=writes))
        for size, writes in {100: 10_000, 1_000: 5_000, 10_000: 1_000, 100_000: 200}.items()
    ]
    return [curve_part(CURVE, "write_many", "write_many", at, timeout=180)]


def _answer(report: Report) -> list[str]:
    figures: dict[str, Figure] = {
        "Throughput": ("records per second", lambda r: r.writes_per_second),
        "Volume": ("MiB per second", lambda r: r.writes_per_second * r.load["record_bytes"] / 2**20),
    }
    return curve_plots(report, CURVE, figures)


QUESTION = Question(
    name="record",
    asks="What does the size of a record change?",
    parts=_parts,
    answer=_answer,
)
