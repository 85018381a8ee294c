"""The facts of an audit as objects: what Temporal's histories say, what the ledger says, what was found in tables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from temporal_batching.audit.rules import CallResult
from temporal_batching.contract import Record
from temporal_batching.sinks.ledger import TOMBSTONES, LedgerStatus

UNREADABLE = "unreadable"
"""Stands for the digest of records that have none: they are not JSON, or not records."""

_BATCH_ID = re.compile(r"(.+)-(\d{1,9})\.([^./]+)/(\d{1,18})")
"""Numbers of more digits do not fit SQLite's integers, and no batcher gets there."""


@dataclass(frozen=True)
class BatchRef:
    """What a batch id says: ``main-0.3f9a2c71/17`` is the batch 17 of shard 0 of the batcher ``main``.

    ``execution`` ends the run id of the shard's first run: a shard that was started anew has another one.
    """

    batcher: str
    shard: int
    execution: str
    number: int

    @classmethod
    def parse(cls, batch_id: str) -> Self | None:
        """Reads a batch id; None if it is not one of a shard."""
        found = _BATCH_ID.fullmatch(batch_id)
        return cls(found[1], int(found[2]), found[3], int(found[4])) if found else None


@dataclass(frozen=True)
class CallFact:
    """One call, as far as a history in Temporal shows it.

    Attributes:
        caller: The workflow or the activity.
        request_id: The idempotency key.
        digest: Of the records it asked for; empty where only the confirmation is known.
        result: How the call ended.
        code: Why it was rejected.
        batch_id: The batch that its confirmation names.
        from_shard: The history is the batcher's, not the caller's.
    """

    caller: str
    request_id: str
    digest: str
    result: CallResult
    code: str = ""
    batch_id: str = ""
    from_shard: bool = False


@dataclass(frozen=True)
class RequestContent:
    """The records that were asked for under a request id."""

    request_id: str
    digest: str
    records: Sequence[Record]


@dataclass(frozen=True)
class KeyArrival:
    """A request with a key, as one event of a shard's history shows it.

    Attributes:
        shard: The shard's number.
        chain: The first run of the shard's chain of runs.
        run_started: When the run began, in seconds since the epoch: it orders runs.
        event: The event's number: it orders arrivals within a run.
        key: The request's key.
        request_id: The request.
    """

    shard: int
    chain: str
    run_started: float
    event: int
    key: str
    request_id: str


@dataclass(frozen=True)
class ShardRun:
    """One run of a shard.

    Attributes:
        shard: The shard's number.
        chain: The first run of the shard's chain of runs.
        first: Whether it is that first run: then the whole chain is there.
        overlapping: Whether several flushes were in flight at a time.
    """

    shard: int
    chain: str
    first: bool
    overlapping: bool


@dataclass
class RecordMatch:
    """A record that was looked up.

    Attributes:
        request_id: Its request.
        digest: The request's content.
        position: Of the record in its request.
        table: Where it belongs.
        written: Whether the ledger says that it is there.
        rows: The rows that hold its values; None if that could not be found out.
        exclusive: Whether each of these rows belongs to one record. Not so where a conflict keeps or overwrites a row.
        difference: The columns that differ from what was asked for.
    """

    request_id: str
    digest: str
    position: int
    table: str
    written: bool
    rows: Sequence[str] | None = None
    exclusive: bool = True
    difference: str = ""


@dataclass(frozen=True)
class RowPool:
    """Equal rows, and the records that may be theirs.

    Attributes:
        id: Names the pool.
        table: The rows' table.
        rows: How many there are.
        records: How many written records there are for them.
    """

    id: str
    table: str
    rows: int
    records: int


@dataclass(frozen=True)
class PoolMember:
    """A record of a pool; ``match`` names it in the store."""

    match: int
    request_id: str
    digest: str
    written: bool


@dataclass(frozen=True)
class LedgerFact:
    """What the ledger says of a request. Its status is text: a later release may know others.

    Attributes:
        request_id: The request.
        status: ``written``, or the outcome that its callers got instead.
        digest: Of its records.
        batch_id: The batch that entered it.
        committed_at: When, in seconds since the epoch.
    """

    request_id: str
    status: str
    digest: str
    batch_id: str
    committed_at: float = 0.0

    @property
    def written(self) -> bool:
        return self.status == LedgerStatus.WRITTEN

    @property
    def tombstone(self) -> bool:
        """Whether it says that the request is not written, and must not be by this batch."""
        return self.status in TOMBSTONES


@dataclass(frozen=True)
class RequestCase:
    """All facts about one request id.

    Attributes:
        request_id: The request.
        calls: Under this id.
        record_counts: How many records each content has, by its digest.
        ledger: What the ledger says; None if it does not know the id.
        copies: How many rows each record has, by digest and position.
        differences: Columns that do not hold what was asked for.
    """

    request_id: str
    calls: Sequence[CallFact]
    record_counts: Mapping[str, int]
    ledger: LedgerFact | None
    copies: Mapping[tuple[str, int], int]
    differences: Sequence[str]


@dataclass
class ReadCounts:
    """What was read from Temporal.

    Attributes:
        workflows: Histories of callers, one for each run.
        activities: Activities that programs started.
        unreadable: Payloads that are not what they should be, or that this client cannot decode.
        deleted: Histories that were deleted while the audit read.
        no_activities: This server cannot list activities.
    """

    workflows: int = 0
    activities: int = 0
    unreadable: int = 0
    deleted: int = 0
    no_activities: bool = False
