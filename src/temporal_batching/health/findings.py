"""What a check finds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How good or bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    """It works, and somebody should look at it."""
    FAILED = "failed"
    SKIPPED = "skipped"
    """It could not be looked at, because of another finding or of a missing argument."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: What: ``temporal``, ``features``, ``queue``, ``version``, ``shard 0``, ``worker``, ``sink``,
            ``ledger``, ``clocks``.
        level: How it is.
        text: What was found, and for a failure what to do, in one line.
    """

    subject: str
    level: Level
    text: str

    def __str__(self) -> str:
        return f"{self.level:<7}  {self.subject:<9}  {' '.join(self.text.split())}"


def ok(subject: str, text: str) -> Finding:
    return Finding(subject, Level.OK, text)


def warning(subject: str, text: str) -> Finding:
    return Finding(subject, Level.WARNING, text)


def failed(subject: str, text: str) -> Finding:
    return Finding(subject, Level.FAILED, text)


def skipped(subject: str, text: str) -> Finding:
    return Finding(subject, Level.SKIPPED, text)


def any_failed(findings: Iterable[Finding]) -> bool:
    """Whether something has to be repaired."""
    return any(finding.level is Level.FAILED for finding in findings)
