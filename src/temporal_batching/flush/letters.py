"""Rejected requests without a reply address, on their way to the sink that keeps them."""

from __future__ import annotations

from collections.abc import Sequence

from temporal_batching.errors import SinkError, SinkUnavailable
from temporal_batching.logs import about_requests, logger
from temporal_batching.sinks.base import Sink
from temporal_batching.sinks.dead_letters import DeadLetter

MAX_LOGGED = 5
"""How many rejected requests without a reply address are named in the log, per batch."""


async def keep_dead_letters(sink: Sink, batch_id: str, letters: Sequence[DeadLetter]) -> int:
    """Keeps them before any caller is notified: an attempt that is lost here is repeated.

    Returns:
        How many of them the sink keeps.
    """
    if not letters:
        return 0
    count = 0
    try:
        count = len(letters) if await sink.keep_dead_letters(letters) else 0
        kept = "kept as dead letters" if count else "gone, for the sink keeps none"
    except SinkUnavailable:
        raise
    except SinkError as err:  # a retry would fail again: neighbours do not wait for it
        kept = f"gone: {err}"
    except Exception as err:
        if len(letters) > 1:  # one of the letters is the cause
            return sum([await keep_dead_letters(sink, batch_id, [letter]) for letter in letters])
        kept = f"gone: {type(err).__name__}"
    # Without their reasons: a database quotes values in them.
    some = ", ".join(f"{letter.request.request_id!r} ({letter.outcome.code})" for letter in letters[:MAX_LOGGED])
    more = f" and {len(letters) - MAX_LOGGED} more" if len(letters) > MAX_LOGGED else ""
    logger.warning(
        "Rejected in batch %s, and without a reply address: %s%s; %s",
        batch_id,
        some,
        more,
        kept,
        extra=about_requests([letter.request.request_id for letter in letters], batch_id=batch_id),
    )
    return count
