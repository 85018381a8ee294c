"""What a question of the benchmark is: how it is measured, shown and judged."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from rich.console import Console

from benchmarks.harness.databases import BenchDatabase
from benchmarks.report import Line, Report

IDLE_SECONDS = 600.0

Progress = Callable[[int], None]


class LeftOut(Exception):
    """A part that cannot be measured here; the message says why."""


@dataclass(frozen=True)
class Part:
    """One thing to measure.

    Attributes:
        title: For people; unique.
        steps: How many writes (or seconds) its progress counts.
        timeout: Seconds after which it has failed.
        run: Adds what it finds to the report.
        concurrent: Runs while the others do, because it only waits.
    """

    title: str
    steps: int
    timeout: float
    run: Callable[[Report, BenchDatabase, Progress], Awaitable[None]]
    concurrent: bool = False


@dataclass(frozen=True)
class Wanted:
    """What was asked for on the command line."""

    parts: Sequence[str]
    ways: Sequence[str]
    quick: bool = False
    writes: int | None = None
    callers: int | None = None
    idle_seconds: float = IDLE_SECONDS


def _nothing(report: Report) -> list[str]:
    return []


def _no_targets(report: Report) -> list[Line]:
    return []


def _no_tables(report: Report, console: Console) -> None:
    return None


@dataclass(frozen=True)
class Question:
    """One question, and how it is answered.

    Attributes:
        name: As `--only` takes it.
        asks: The question itself, the heading of its answer.
        parts: What there is to measure.
        answer: HTML for the report; empty where nothing was measured.
        targets: Judged by the report.
        print: Its tables on the terminal.
        quick: Whether a quick run asks it.
    """

    name: str
    asks: str
    parts: Callable[[Wanted], list[Part]]
    answer: Callable[[Report], list[str]] = _nothing
    targets: Callable[[Report], list[Line]] = _no_targets
    print: Callable[[Report, Console], None] = _no_tables
    quick: bool = False
