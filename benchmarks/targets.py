"""Lines of the table of targets: a figure, what it should be, what it is."""

from __future__ import annotations

from benchmarks.report import Line, Result
from benchmarks.rounding import number

VERDICTS = {True: "met", False: "not met", None: "not measured"}


def at_most(name: str, most: float, value: float | None, unit: str = "") -> Line:
    return _line(name, f"≤ {number(most)}{unit}", value, value is not None and value <= most, unit)


def at_least(name: str, least: float, value: float | None, unit: str = "") -> Line:
    return _line(name, f"≥ {number(least)}{unit}", value, value is not None and value >= least, unit)


def not_measured(name: str, target: str) -> Line:
    return name, target, "-", None


def ratio(one: Result | None, other: Result | None, figure: str) -> float | None:
    """Of an attribute of two results; None where either is missing."""
    if one is None or other is None or not getattr(other, figure):
        return None
    return float(getattr(one, figure) / getattr(other, figure))


def _line(name: str, target: str, value: float | None, met: bool, unit: str) -> Line:
    if value is None:
        return not_measured(name, target)
    return name, target, f"{number(value)}{unit}", met
