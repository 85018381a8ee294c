"""The facts of an audit as objects: from Temporal's histories, from the ledger, and from the tables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from temporal_batching.audit.row_history import RowWrite
from temporal_batching.audit.rules import CallResult
from temporal_batching.contract import Record, ReturnedRow
from temporal_batching.sinks.ledger import TOMBSTONES, LedgerStatus

UNREADABLE = "unreadable"
"""The digest of records that have none, because they are not JSON or not records."""

_BATCH_ID = re.compile(r"(.+)-(\d{1,9})\.([^./]+)/(\d{1,18})")
"""Numbers with more digits do not fit SQLite's integers, and no batcher counts so far."""


@dataclass(frozen=True)
class BatchRef:
    """The parts of a batch id: ``main-0.3f9a2c71/17`` is batch 17 of shard 0 of the batcher ``main``.

    Attributes:
        batcher: The batcher's name.
        shard: The shard's number.
        execution: The end of the run id of the shard's first run; it changes when the shard is started again.
        number: The batch's number.
    """

    batcher: str
    shard: int
    execution: str
    number: int

    @classmethod
    def parse(cls, batch_id: str) -> Self | None:
        """Parses a batch id; None if it is not that of a shard."""
        found = _BATCH_ID.fullmatch(batch_id)
        return cls(found[1], int(found[2]), found[3], int(found[4])) if found else None


@dataclass(frozen=True)
class CallFact:
    """A call, as far as a history in Temporal shows it.

    Attributes:
        caller: The workflow or the activity that called.
        request_id: The idempotency key.
        digest: The digest of its records; empty if only the confirmation is known.
        result: How the call ended.
        code: Why it was rejected, if it was.
        batch_id: The batch in its confirmation.
        from_shard: Whether the fact comes from the batcher's history instead of the caller's.
        returned: The `returned_mark` of what its confirmation returned.
        complete: Whether all that was returned is in the confirmation.
        sent: When it was sent, in seconds since the epoch; 0 if that is not known.
        ended: When its result was recorded, by the same clock; 0 if that is not known.
    """

    caller: str
    request_id: str
    digest: str
    result: CallResult
    code: str = ""
    batch_id: str = ""
    from_shard: bool = False
    returned: str = ""
    complete: bool = True
    sent: float = 0.0
    ended: float = 0.0


@dataclass(frozen=True)
class RequestContent:
    """The records of a request, with their digest."""

    request_id: str
    digest: str
    records: Sequence[Record]


@dataclass(frozen=True)
class KeyArrival:
    """The arrival of a request with a key, as one event of a shard's history shows it.

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
        first: Whether it is the first run: then the whole chain was read.
        overlapping: Whether several flushes were in flight at the same time.
    """

    shard: int
    chain: str
    first: bool
    overlapping: bool


@dataclass
class RecordMatch:
    """A record that was looked up.

    Attributes:
        request_id: The record's request.
        digest: The digest of the request.
        position: The position of the record in its request.
        table: The record's table.
        written: Whether the ledger has the request as written.
        rows: The rows that have its values; None if they could not be looked up.
        exclusive: Whether each of these rows belongs to one record. It is False if a conflict keeps or overwrites rows.
        difference: The columns whose values differ from the request's.
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
class KeptWrite:
    """A written record of a table whose rows change, with what is known of its row.

    Attributes:
        table: The record's table.
        key: The values of the row's key, as JSON.
        spot: The same for all spellings of one key.
        write: The record's write; its period is not known yet.
    """

    table: str
    key: str
    spot: str
    write: RowWrite


@dataclass(frozen=True)
class RowPool:
    """Equal rows, and the records that they may belong to.

    Attributes:
        id: The pool's id.
        table: The table of the rows.
        rows: The number of rows.
        records: The number of written records for them.
    """

    id: str
    table: str
    rows: int
    records: int


@dataclass(frozen=True)
class PoolMember:
    """A record of a pool.

    Attributes:
        match: The id of its `RecordMatch` in the store.
        request_id: The record's request.
        digest: The digest of the request.
        written: Whether the ledger has the request as written.
    """

    match: int
    request_id: str
    digest: str
    written: bool


@dataclass(frozen=True)
class LedgerFact:
    """A row of the ledger. Its status is text, because a later release may have other statuses.

    Attributes:
        request_id: The request.
        status: ``written``, or the outcome that its callers got instead.
        digest: The digest of its records.
        batch_id: The batch that entered the row.
        committed_at: The time of the entry, in seconds since the epoch.
        returned: The `returned_mark` of what the request returned.
        rows: What the request returned; None if it asked for nothing, or if only the mark is known.
    """

    request_id: str
    status: str
    digest: str
    batch_id: str
    committed_at: float = 0.0
    returned: str = ""
    rows: Sequence[ReturnedRow | None] | None = None

    @property
    def written(self) -> bool:
        """Whether the request is written."""
        return self.status == LedgerStatus.WRITTEN

    @property
    def tombstone(self) -> bool:
        """Whether the request is not written, and must not be written by this batch."""
        return self.status in TOMBSTONES


@dataclass(frozen=True)
class RequestCase:
    """All facts about one request id.

    Attributes:
        request_id: The request.
        calls: The calls under this id.
        record_counts: The number of records of each content, by its digest.
        ledger: The row of the ledger; None if the ledger does not know the id.
        copies: The number of rows of each record, by digest and position.
        differences: The columns whose values differ from the request's.
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
        workflows: The number of callers' histories, one for each run.
        activities: The number of activities that programs started.
        unreadable: The number of payloads that are invalid or that this client cannot decode.
        deleted: The number of histories that were deleted during the audit.
        gone_parcels: The number of parcels whose activity Temporal has deleted: a shard only refers to it.
        no_activities: Whether this server cannot list activities.
    """

    workflows: int = 0
    activities: int = 0
    unreadable: int = 0
    deleted: int = 0
    gone_parcels: int = 0
    no_activities: bool = False
