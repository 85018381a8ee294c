"""What does the size of a batch change, for a program?"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.curve import Figure, curve_part, curve_plots
from benchmarks.harness.measure import Load
from benchmarks.question import Part, Question, Wanted
from benchmarks.questions.many import LINGER
from benchmarks.report import Report

CURVE = "records in a batch"


def _parts(wanted: Wanted) -> list[Part]:
    few = Load(warm_up=100, idle_seconds=2.0, linger=LINGER)
    at = [
        (size, replace(few, batch_size=size, writes=writes))
        for size, writes in {1: 200, 10: 2_000, 100: 10_000, 1000: 20_000}.items()
    ]
    return [curve_part(CURVE, "write_many", "write_many", at, timeout=240)]


def _answer(report: Report) -> list[str]:
    figures: dict[str, Figure] = {
        "Throughput": ("records per second", lambda r: r.writes_per_second),
        "Persistence": ("requests per record", lambda r: r.persistence_per_write),
        "Transactions": ("transactions per record", lambda r: r.transactions_per_write),
    }
    return curve_plots(report, CURVE, figures)


QUESTION = Question(
    name="batch",
    asks="What does the size of a batch change?",
    parts=_parts,
    answer=_answer,
)
