"""A database's message as it may be stored in a history and shown in one line."""

from __future__ import annotations

MAX_REASON = 500
"""Characters. A database quotes values of any length, and a reason is stored in several histories."""


def short_reason(words: str) -> str:
    """The message in one line, shortened to `MAX_REASON` characters."""
    line = " ".join(words.split())
    return line if len(line) <= MAX_REASON else f"{line[: MAX_REASON - 3]}..."
