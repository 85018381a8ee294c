"""The wire contract: names and JSON shapes that callers, gateway, batcher and sink share. Imports nothing of ours.

Everything here travels as JSON through Temporal, so it is plain data: renaming a field or a name breaks callers in
other languages and stored histories. ``docs/reference/wire-contract.md`` is this module for readers of other languages.
"""

# No postponed annotations here: in a caller's sandbox, which does not know this module by name, the SDK could not
# resolve them and would drop a confirmation.
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, TypeAlias, get_args

JsonObject: TypeAlias = dict[str, Any]
ReturnedRow: TypeAlias = dict[str, Any]
"""Columns of a row that a request asked for, as JSON, the way values travel in."""

Operation: TypeAlias = Literal["insert", "update", "delete"]
"""What a record does to its table."""
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
INSERT: Operation = "insert"
"""The operation of a record that names none."""

DEFAULT_BATCHER = "main"
NO_LEDGER = ""
"""In place of a ledger's identity: a sink without one, on purpose."""
DEFAULT_TASK_QUEUE = "batcher-queue"
"""Of the batcher ``main``; another one's carries its name: `routing.default_task_queue`."""

WORKFLOW_BATCHER = "BatcherWorkflow"
ACTIVITY_WRITE = "batch_write"
ACTIVITY_WRITE_MANY = "batch_write_many"
ACTIVITY_WITHDRAW = "batch_withdraw"
ACTIVITY_RETURNED = "batch_returned"
ACTIVITY_FLUSH = "flush_batch"
ACTIVITY_CONFIRM = "deliver_confirmations"
ACTIVITY_POLICY = "batcher_policy"
ACTIVITY_CANCEL = "cancel_shard"
ACTIVITY_REPORT = "batcher_report"
SIGNAL_ADD = "add_write_request"
SIGNAL_WITHDRAW = "withdraw_write_request"
SIGNAL_CONFIRMATION = "write_confirmation"
UPDATE_SUBMIT = "submit"
UPDATE_CONTROL = "control"
QUERY_STATS = "stats"
QUERY_BATCH = "batch"
NEXUS_SERVICE = "temporal-batching"
"""Its operations have the names of the activities behind them."""


class OutcomeKind(StrEnum):
    """What became of a request: exactly one of these."""

    WRITTEN = "written"
    DUPLICATE = "duplicate"
    """Its id was in the ledger already, with the same records; nothing was applied again. A success."""
    REJECTED = "rejected"
    EXPIRED = "expired"
    RETRY = "retry"
    """Not applied now: this request is to be retried later. A sink's answer only; no `Confirmation` ever carries it."""


class RejectCode(StrEnum):
    """Why a request was rejected, for programs; ``Confirmation.reason`` says it for people."""

    INVALID = "invalid"
    """The request does not fit the contract: shape, empty names, values outside JSON, an operation that its table does
    not allow, an update or a delete that does not name its row."""
    TOO_LARGE = "too_large"
    """More records or bytes than one batch may hold."""
    OVERLOADED = "overloaded"
    """The buffer is full. Only a signal is answered so; an activity waits and is retried."""
    ID_REUSED = "id_reused"
    """The request id belongs to a request with other records."""
    WITHDRAWN = "withdrawn"
    """The caller took it back before it was written."""
    CONTENT_GONE = "content_gone"
    """Of a parcel by reference: its activity was deleted before its content was read."""
    UNKNOWN_TABLE = "unknown_table"
    UNKNOWN_COLUMN = "unknown_column"
    TYPE = "type"
    """A value that the column's type cannot hold."""
    CONSTRAINT = "constraint"
    """The database's own constraint: unique, foreign key, check, not null."""
    MISSING_ROW = "missing_row"
    """The row that the request updates is not there."""
    DATABASE = "database"
    """Any other refusal of this request by the database."""


class Trigger(StrEnum):
    """What made a batch start."""

    COUNT = "count"
    BYTES = "bytes"
    LINGER = "linger"
    DEADLINE = "deadline"
    MANUAL = "manual"
    RETRY = "retry"
    """A batch that the sink could not take earlier."""


@dataclass(frozen=True)
class Returned:
    """In place of a value: the value of a column of an earlier record of the same request, as the database has it.

    Parent and children with generated keys so commit together. If the database has no such row, because a conflict rule
    kept it away, the value is null.

    Example:
        ```python
        from temporal_batching import Record, Returned

        records = [
            Record("orders", {"customer": "c-1"}, returning=["id"]),
            Record("lines", {"order_id": Returned(0, "id"), "article": "a-7"}),
        ]
        ```

    Attributes:
        record: The position of the earlier record in its request; 0 is the first.
        column: Its column. It need not be among those that the record returns to the caller.
    """

    record: int
    column: str


@dataclass(frozen=True)
class Record:
    """One row to write.

    Example:
        ```python
        from temporal_batching import Record

        paid = Record("orders", {"id": 7, "state": "paid"}, operation="update", returning=["paid_at"])
        gone = Record("reservations", {"order_id": 7}, operation="delete")
        ```

    Attributes:
        table: The destination, by the name the sink knows.
        values: Column name to JSON value, or `Returned`. Decimals, timestamps, dates and UUIDs travel as strings, bytes
            as base64; the sink binds them by the column's type. An update has the columns of its table's key, which
            name the row, and those that it sets. A delete has the columns of the key alone.
        returning: Columns whose values the caller receives as the database has them after the write, in
            `Confirmation.returned`: generated keys, defaults, what a trigger has set. Of a delete: as the row was.
        operation: ``insert``, ``update`` or ``delete``. The table's rule says which it allows (`TableRule`), by default
            only ``insert``.
    """

    table: str
    values: Mapping[str, Any]
    returning: Sequence[str] = ()
    operation: Operation = INSERT


@dataclass(frozen=True)
class WriteRequest:
    """Records that commit together or not at all.

    Attributes:
        request_id: The caller's idempotency key: stable over retries and replays, unique otherwise.
        records: At least one.
        key: Decides shard and order. Empty: the request id does, and there is no order to keep.
        expires_at: Seconds since the epoch after which it must not be written any more; None for no deadline.
    """

    request_id: str
    records: Sequence[Record]
    key: str = ""
    expires_at: float | None = None


@dataclass(frozen=True)
class Outcome:
    """A sink's answer for one request.

    Attributes:
        kind: What became of the request.
        code: Why it was rejected, for programs.
        reason: Why it was rejected or has to be retried, for people.
        in_doubt: Only with `OutcomeKind.RETRY`: the request may be committed nevertheless.
        returned: For each record of a request that asked for any: the columns it asked for, none if it asked for none;
            None for a record without a row to show. None for a request that asked for nothing.
    """

    kind: OutcomeKind
    code: RejectCode | None = None
    reason: str | None = None
    in_doubt: bool = False
    returned: Sequence[ReturnedRow | None] | None = None

    @classmethod
    def written(cls, returned: Sequence[ReturnedRow | None] | None = None) -> "Outcome":
        """The request is written.

        Args:
            returned: What the caller asked for; see `Record.returning`.
        """
        return _WRITTEN if returned is None else cls(OutcomeKind.WRITTEN, returned=returned)

    @classmethod
    def duplicate(cls, returned: Sequence[ReturnedRow | None] | None = None) -> "Outcome":
        """The request was written before.

        Args:
            returned: What the first caller received.
        """
        return _DUPLICATE if returned is None else cls(OutcomeKind.DUPLICATE, returned=returned)

    @classmethod
    def expired(cls) -> "Outcome":
        return _EXPIRED

    @classmethod
    def rejected(cls, code: RejectCode, reason: str) -> "Outcome":
        return cls(OutcomeKind.REJECTED, code, reason[:MAX_REASON])

    @classmethod
    def retry(cls, reason: str, *, in_doubt: bool = False) -> "Outcome":
        """The request cannot be applied now, and may be later; its neighbours in the batch are not concerned.

        The batcher keeps the request, and what follows it under the same key, and retries it under the same batch id.
        Its caller is notified of nothing yet.

        Args:
            reason: Why, for people who operate the batcher.
            in_doubt: Whether the request may be committed nevertheless.
        """
        return cls(OutcomeKind.RETRY, None, reason[:MAX_REASON], in_doubt)


MAX_REASON = 500
"""Characters of a reason that travel: it lands in the caller's history, and in the batcher's."""

_WRITTEN = Outcome(OutcomeKind.WRITTEN)
_DUPLICATE = Outcome(OutcomeKind.DUPLICATE)
_EXPIRED = Outcome(OutcomeKind.EXPIRED)


@dataclass(frozen=True)
class Confirmation:
    """What a caller receives about its write.

    Attributes:
        request_id: The write's id.
        outcome: One of `OutcomeKind`.
        batch_id: The batch it was settled in, e.g. ``main-0.3f9a2c71/17``; empty if it never got into one.
        batch_size: Requests in that batch.
        shard: The batcher shard that settled it.
        settled_at: When: for a written request, right after the commit.
        code: Why it was rejected, one of `RejectCode`.
        reason: The same for people, with the database's own words.
        returned: If the request asked for columns (`Record.returning`): for each record, in order, those columns with
            their values as JSON; an empty object for a record that asked for none, and None where there is no row to
            show. A duplicate receives what the first one received. None if nothing was asked for.
        traceparent: The span of the batch's flush, if the request and the flush were traced.
    """

    request_id: str
    outcome: OutcomeKind
    batch_id: str = ""
    batch_size: int = 0
    shard: int = 0
    settled_at: datetime | None = None
    code: RejectCode | None = None
    reason: str | None = None
    returned: list[ReturnedRow | None] | None = None
    traceparent: str | None = None


@dataclass(frozen=True)
class ReplyTo:
    """Where a confirmation goes.

    With ``activity_id`` it completes that activity (of the workflow, or a standalone one without ``workflow_id``);
    without, it is the signal ``write_confirmation`` to the workflow. Without ``run_id`` a signal reaches the
    workflow's current run, so a caller that continued as new or was reset still receives it.
    """

    workflow_id: str | None = None
    run_id: str | None = None
    activity_id: str | None = None
    from_run_id: str | None = None
    """Of a signal: the run that asked. Its withdrawal takes nothing back that another run asked for."""
    safe_integers: bool = False
    """Its numbers are doubles: see `wire.safe_integers`."""

    def to_wire(self) -> JsonObject:
        """The address as it travels: without what it does not name."""
        return {name: value for name, value in vars(self).items() if value}

    @property
    def by_activity(self) -> bool:
        """It completes an activity."""
        return self.activity_id is not None

    @property
    def caller_run_id(self) -> str | None:
        """The run that asked: of a signal it stands apart from the address, which reaches the current run."""
        return self.from_run_id or self.run_id


@dataclass(frozen=True)
class Withdrawal:
    """The arguments of the signal ``withdraw_write_request``: who takes which request back.

    A caller is one run of a workflow: the next run under its id is another caller.

    Attributes:
        request_id: The request's, or the parcel's.
        workflow_id: The caller's; None for a standalone activity.
        run_id: The caller's run, or the standalone activity's; None for any run. Without both, all callers.
    """

    request_id: str
    workflow_id: str | None = None
    run_id: str | None = None

    def covers(self, reply: ReplyTo) -> bool:
        """Whether a reply address is this caller's."""
        if self.workflow_id is None and self.run_id is None:
            return True
        another_run = self.run_id is not None and reply.caller_run_id not in (self.run_id, None)
        return reply.workflow_id == self.workflow_id and not another_run


@dataclass(frozen=True)
class ParcelReceipt:
    """Result of ``batch_write_many``: one reply for many requests that went through one batch.

    Attributes:
        batch_id: The batch they were settled in.
        batch_size: Requests in that batch.
        shard: The shard that settled it.
        settled_at: When.
        others: The outcomes that differ from ``written``, by the request's position in the parcel.
        returned: What requests that asked for columns received, by position, as in `Confirmation.returned`.
        unread: Whether more was returned than it holds: read by ``batch_returned`` on the task queue ``read_from``.
        traceparent: As in `Confirmation`.
    """

    batch_id: str
    batch_size: int
    shard: int
    settled_at: datetime | None = None
    others: dict[str, Outcome] = field(default_factory=dict)
    returned: dict[str, list[ReturnedRow | None]] = field(default_factory=dict)
    unread: bool = False
    traceparent: str | None = None
    read_from: str = ""  # empty: the batcher's own


@dataclass(frozen=True)
class Delivery:
    """What one caller is to receive: a confirmation, or a parcel's receipt.

    Attributes:
        reply_to: The caller's address.
        confirmation: Of a request, or of a whole parcel that has no outcome for each of its requests.
        receipt: Of a parcel.
        unread: What was returned is not in it, and is to be read from the ledger before it is delivered.
    """

    reply_to: ReplyTo
    confirmation: Confirmation | None = None
    receipt: ParcelReceipt | None = None
    unread: bool = False


@dataclass(frozen=True)
class BatcherStats:
    """The figures of one shard. Counters named ``run_*`` start again with each run, the others are carried over.

    Attributes:
        batcher: The service's name.
        shard: This shard's number.
        run_id: The run that answered: it changes when the shard continues as new.
        unread: Signals that are not read yet: of a flood, a shard reads a portion at a time.
        pending: Requests waiting for a batch.
        pending_bytes: Their size as they travel.
        in_flight: Requests in a flush right now.
        dedup_ids: Ids held for deduplication: pending and in flight. Settled ids live in the ledger alone.
        oldest_pending_seconds: Age of the request that waits longest.
        batches: Batches settled.
        batches_by_trigger: The same by what started them.
        largest_batch: Most requests any batch had.
        outcomes: Requests settled, by outcome.
        requeued: Requests that the sink could not write now: each waits with its key for a retry of its own.
        waiting_confirmations: Confirmations that could not be sent yet, and those that no flush sends.
        retries: How often a request was requeued.
        unknown: Requests past their deadline whose outcome cannot be known. Their callers receive no confirmation.
        sink_errors: How often the sink failed on a request without declaring it: an exception, or no outcome.
        flush_failures: Flushes the sink could not take; each was retried.
        refused: Requests rejected as busy because there was no room, those of a parcel each; every attempt counts.
        malformed: Signals that no request could be read from.
        undelivered: Confirmations given up after retries.
        run_signals: Signals this run received.
        run_updates: Updates this run received.
        run_events: Events in this run's history.
        continue_as_new: How often the shard continued as new.
        idle_cycles: Consecutive runs that settled nothing though something was pending.
        suggested: Whether Temporal suggests to continue as new.
        paused: No flush starts while true.
        draining: No request is accepted while true.
        breaker: ``closed``, or ``open`` while the sink is unavailable.
        sink_error: The sink's last complaint while the breaker is open.
        ledger: The ledger that it may have been written to; None if to none; empty for a sink without, as adopted.
        flush_task_queue: Where its flushes go; empty for the batcher's own task queue.
        policy: The limits in force, as in `BatchPolicy.to_wire`.
    """

    batcher: str
    shard: int
    run_id: str = ""
    unread: int = 0
    pending: int = 0
    pending_bytes: int = 0
    in_flight: int = 0
    dedup_ids: int = 0
    oldest_pending_seconds: float = 0.0
    batches: int = 0
    batches_by_trigger: dict[str, int] = field(default_factory=dict)
    largest_batch: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    requeued: int = 0
    waiting_confirmations: int = 0
    retries: int = 0
    unknown: int = 0
    sink_errors: int = 0
    flush_failures: int = 0
    refused: int = 0
    malformed: int = 0
    undelivered: int = 0
    run_signals: int = 0
    run_updates: int = 0
    run_events: int = 0
    continue_as_new: int = 0
    idle_cycles: int = 0
    suggested: bool = False
    paused: bool = False
    draining: bool = False
    breaker: str = "closed"
    sink_error: str | None = None
    ledger: str | None = None
    flush_task_queue: str = ""
    policy: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class BatcherStart:
    """Input of the batcher workflow.

    Attributes:
        batcher: The service's name.
        shard: This shard's number.
        policy: Limits as in `BatchPolicy.to_wire`; None asks the batcher's own worker for them.
        flush_task_queue: Where its flushes go, empty for the batcher's own queue; None asks that worker.
        state: What the previous run carried over; None in a first run. Only this library reads it.
    """

    batcher: str
    shard: int
    policy: dict[str, Any] | None = None
    flush_task_queue: str | None = None
    state: dict[str, Any] | None = None


@dataclass(frozen=True)
class Control:
    """Input of the update ``control``: every field that is not None is carried out."""

    policy: dict[str, Any] | None = None
    announced: bool = False
    """The policy comes from a worker that started: it yields to one that an operator has set."""
    flush: bool | None = None
    pause: bool | None = None
    drain: bool | None = None
    flush_task_queue: str | None = None  # as in `BatcherStart`, where a worker announces it
    adopt_ledger: str | None = None
    """The identity of the ledger in which the shard goes on, and no other one; `NO_LEDGER` for a sink without."""
    routed_at: float | None = None
    """When the task queue got its current version: a shard of another one continues as new there, once each time."""


@dataclass(frozen=True)
class FlushInput:
    """Input of the activity ``flush_batch``. ``submissions`` are as they came in, each with its ``reply_to``."""

    batcher: str
    shard: int
    batch_id: str
    trigger: str
    submissions: list[Any] | None
    """None for a batch that is retried: its flush asks the shard, by the query ``batch``. So history has it once."""
    in_doubt: bool = False
    """An earlier attempt may have committed. For readers of the history: the flush asks the sink in any case."""
    attempt: int = 0
    """Earlier attempts at this batch."""
    halved: bool = False
    """Not all that had this batch id: it failed alone, or some was written while a parcel's content was missing."""
    ledger: str | None = None
    """The ledger that this shard may have been written to: no other one takes the batch. `NO_LEDGER` if an operator
    said that it goes on in a sink without one; None if it has been written to none."""
    may_choose_ledger: bool = False
    """With no ledger yet: it goes alone, and its sink's ledger becomes the shard's."""
    waited: float = 0.0
    """Seconds from the arrival of its oldest request, at the gateway if it came through one, to this attempt."""


@dataclass(frozen=True)
class Refusal:
    """Why a shard did not accept a request.

    Attributes:
        position: Of the request in its submission.
        code: `RejectCode.OVERLOADED` for what may be submitted again later; any other is final.
        reason: The same for people.
    """

    position: int
    code: RejectCode
    reason: str


@dataclass(frozen=True)
class SubmitResult:
    """Result of the update ``submit``.

    Attributes:
        refused: What was not accepted.
        gather_seconds: How long a gateway may gather requests before it submits them; grows with the linger, which
            counts from a request's arrival at the gateway.
        batch_size: How many requests fill a batch: a gateway that holds as many need not gather on.
        batch_records: How many records fill one, by the same rule.
    """

    refused: list[Refusal]
    gather_seconds: float
    batch_size: int
    batch_records: int


@dataclass(frozen=True)
class Requeued:
    """A submission of a batch that has to be retried, as the flush reports it to the shard.

    Attributes:
        position: Of the submission in the batch.
        reason: Why, for people.
        in_doubt: It may be committed nevertheless.
        unread: The flush did not have its content: so it does not know which request ids are in it.
    """

    position: int
    reason: str = ""
    in_doubt: bool = False
    unread: bool = False


@dataclass(frozen=True)
class FlushResult:
    """Result of ``flush_batch``.

    Attributes:
        outcomes: Requests by outcome.
        undelivered: What callers could not be sent yet.
        requeued: Submissions that the shard keeps, to retry them under the same batch id.
        unknown: Positions of submissions past their deadline whose outcome cannot be known. Their callers receive no
            confirmation.
        sink_errors: Requests that the sink failed on without declaring it.
        stalled: No request got an outcome from the sink.
        unreached: Addresses of activities that were between two attempts: their next attempt submits again.
    """

    outcomes: dict[str, int] = field(default_factory=dict)
    undelivered: list[Delivery] = field(default_factory=list)
    requeued: list[Requeued] = field(default_factory=list)
    unknown: list[int] = field(default_factory=list)
    sink_errors: int = 0
    stalled: bool = False
    ledger: str | None = None
    """Whose ledger it went into: `Sink.identity`."""
    unreached: list[ReplyTo] = field(default_factory=list)


@dataclass(frozen=True)
class DeliveryResult:
    """Result of ``deliver_confirmations``.

    Attributes:
        failed: Positions of the deliveries to retry.
        unreached: As in `FlushResult`.
    """

    failed: list[int] = field(default_factory=list)
    unreached: list[ReplyTo] = field(default_factory=list)
