"""The questions, in the order of what is asked most, and what a run measures for them."""

from __future__ import annotations

from benchmarks.question import Part, Question, Wanted
from benchmarks.questions import (
    batch,
    callers,
    endurance,
    idle,
    latency,
    limit,
    many,
    record,
    shards,
    sink,
    ways,
)
from benchmarks.report import Line, Report

QUESTIONS: tuple[Question, ...] = (
    limit.QUESTION,
    ways.QUESTION,
    many.QUESTION,
    sink.QUESTION,
    idle.QUESTION,
    endurance.QUESTION,
    latency.QUESTION,
    callers.QUESTION,
    batch.QUESTION,
    record.QUESTION,
    shards.QUESTION,
)
PARTS = tuple(question.name for question in QUESTIONS)
QUICK_PARTS = tuple(question.name for question in QUESTIONS if question.quick)


def make_plan(wanted: Wanted) -> list[Part]:
    named = {question.name: question for question in QUESTIONS}
    return [part for name in wanted.parts for part in named[name].parts(wanted)]


def judge(report: Report) -> list[Line]:
    return [line for question in QUESTIONS for line in question.targets(report)]
