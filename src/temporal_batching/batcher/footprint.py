"""What a buffer keeps in memory beside the requests themselves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a buffer keeps in memory beside its submissions. All of it is bounded, or goes when they go.

    Attributes:
        ids: Request ids in batches that are not settled.
        keys: Keys in them.
        lanes: Lanes of keys, and what is remembered of which may be ready.
        deadlines: Deadlines that are watched, those of requests that have left included.
        unanswered: Activities whose delivery waits.
        notified: Activities that were notified lately.
    """

    ids: frozenset[str]
    keys: frozenset[str]
    lanes: int
    deadlines: int
    unanswered: int
    notified: int
