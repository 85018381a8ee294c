"""The ledger's rules, independent of any database: the outcome of a request whose id the ledger knows already."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from hashlib import blake2b
from typing import Any

from temporal_batching.contract import INSERT, Outcome, Record, RejectCode, Returned, ReturnedRow
from temporal_batching.wire.json_text import text_writer
from temporal_batching.wire.records import split_references
from temporal_batching.wire.safe_integers import with_safe_integers

DEFAULT_LEDGER = "batching_ledger"
"""The default name of the ledger's table."""

MAX_REQUEST_ID_BYTES = 1024
"""A B-tree entry of PostgreSQL has at most 2,704 bytes: a longer id would fail the statement of the whole batch."""

IDENTITY_ID = ""
"""The request id of the row whose digest is the ledger's identity. No request may have this id."""


class LedgerStatus(StrEnum):
    """What a row of the ledger says of its request."""

    WRITTEN = "written"
    """The request is written."""
    EXPIRED = "expired"
    """A tombstone: the request was answered `expired`, and this batch must not write it any more."""
    REJECTED = "rejected"
    """A tombstone: the request was answered `rejected`, and an attempt still under way must not write it."""
    IDENTITY = "identity"
    """The row is not a request: see `IDENTITY_ID`."""


TOMBSTONES = (LedgerStatus.EXPIRED, LedgerStatus.REJECTED)
"""The statuses of fenced requests: another batch may write the id, the same batch may not."""

_REJECTED_BEFORE = Outcome.rejected(RejectCode.DATABASE, "rejected in an earlier attempt at its batch")


@dataclass(frozen=True)
class LedgerEntry:
    """A row of the ledger: what is known of one request id.

    Attributes:
        request_id: The caller's idempotency key.
        status: The outcome that its caller got: written, or fenced as expired or rejected.
        batch_id: The batch that entered the row.
        committed_at: The time of the entry, by the clock of the worker that made it; with its time zone.
        digest: The `digest` of the request's records.
        returned: What its caller received of the rows; None if it asked for nothing.
    """

    request_id: str
    status: LedgerStatus
    batch_id: str
    committed_at: datetime
    digest: str
    returned: list[ReturnedRow | None] | None = None


class _Reference(Exception):
    """A value is a reference to an earlier record."""


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Returned):
        raise _Reference
    raise TypeError(f"{type(value).__name__} is not a JSON value")


_encode = text_writer(json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=_plain))


class NotJson(ValueError):
    """The records contain something that is not a JSON value."""


def digest(records: Sequence[Record]) -> str:
    """A short hash of what the records write, as canonical JSON: independent of the order of an object's keys.

    What the records return does not count: a caller that asks again, for other columns, asks for the same writes.

    Args:
        records: The records of a request.

    Returns:
        32 hexadecimal digits.

    Raises:
        NotJson: The records are not JSON; the message says why.
    """
    try:
        text = _canonical(records)
    except (TypeError, ValueError, RecursionError) as err:
        raise NotJson(f"the records are not JSON: {err}") from None
    return blake2b(text.encode(), digest_size=16).hexdigest()


def returned_mark(returned: Any) -> str:
    """A short hash of what a request returned; empty if it returned nothing. The same in each form of its numbers."""
    if returned is None:
        return ""
    return blake2b(_encode(with_safe_integers(returned)).encode(), digest_size=16).hexdigest()


def _canonical(records: Sequence[Record]) -> str:
    # No part can be mistaken for another one: values and references are objects, an operation is a string.
    try:
        return _encode(
            [[r.table, r.values] if r.operation == INSERT else [r.table, r.values, r.operation] for r in records]
        )
    except _Reference:
        return _encode([[record.table, *split_references(record.values), *_operation(record)] for record in records])


def _operation(record: Record) -> tuple[str, ...]:
    return () if record.operation == INSERT else (record.operation,)


def request_id_fault(request_id: str) -> str | None:
    """Why the ledger cannot hold an id, or None if it can. All sinks use this rule, so that tests give true results."""
    if not isinstance(request_id, str) or not request_id:
        return "the request id must be a non-empty string"
    if "\x00" in request_id:
        return "the request id must not contain the character U+0000"
    if request_id.isascii() and len(request_id) <= MAX_REQUEST_ID_BYTES:
        return None
    try:
        size = len(request_id.encode())
    except UnicodeEncodeError:
        return "the request id must be text that UTF-8 can encode"
    if size > MAX_REQUEST_ID_BYTES:
        return f"the request id has {size:,} bytes; at most {MAX_REQUEST_ID_BYTES:,} are allowed"
    return None


def judge(known: LedgerEntry | None, digest: str, batch_id: str) -> Outcome | None:
    """The outcome that follows from the ledger alone, or None if the request may be written.

    A batch without an id cannot recognise its own earlier attempt, so every written id is a duplicate for it.

    Args:
        known: The row of the request id, or None if there is none.
        digest: The digest of the request's records.
        batch_id: The id of the batch that the request is in.
    """
    if known is None:
        return None
    if known.status in TOMBSTONES:
        if known.batch_id != batch_id:  # the caller resubmitted the id after it got the outcome
            return None
        return Outcome.expired() if known.status is LedgerStatus.EXPIRED else _REJECTED_BEFORE
    if known.digest != digest:
        return id_reused(known.batch_id)
    if batch_id and known.batch_id == batch_id:
        return Outcome.written(known.returned)
    return Outcome.duplicate(known.returned)


def id_reused(batch_id: str) -> Outcome:
    """The outcome of a request whose id was written with other records, in this batch if it is known."""
    where = f"in batch {batch_id}" if batch_id else "before"
    return Outcome.rejected(RejectCode.ID_REUSED, f"this request id was written {where} with other records")
