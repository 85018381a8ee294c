"""What became of a request that came to a shard and was not refused."""

from __future__ import annotations

from enum import StrEnum


class Accepted(StrEnum):
    """What the buffer did with a request that it did not refuse."""

    NEW = "new"
    ATTACHED = "attached"
    """Its id is here already, with the same records: the caller waits for the same outcome."""
    ANSWERED = "answered"
    """It was past its deadline, or withdrawn before it came: the answer is in the outbox."""
