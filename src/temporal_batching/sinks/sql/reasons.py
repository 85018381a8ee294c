"""A database's own words as they may be stored in a history and shown in one line."""

from __future__ import annotations

MAX_REASON = 500
"""Characters: a database quotes values at any length, and a reason travels through several histories."""


def short_reason(words: str) -> str:
    """The words in one line, cut where they are too many."""
    line = " ".join(words.split())
    return line if len(line) <= MAX_REASON else f"{line[: MAX_REASON - 3]}..."
