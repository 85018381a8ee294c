"""The ledger's rules, apart from any database: what an id that is known already means for a request that brings it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from hashlib import blake2b
from typing import Any

from temporal_batching.contract import Outcome, Record, RejectCode

DEFAULT_LEDGER = "batching_ledger"
"""The ledger's table, unless a sink is given another name."""

MAX_REQUEST_ID_BYTES = 1024
"""A B-tree entry of PostgreSQL ends at 2,704 bytes: an id beyond it would fail the statement of the whole batch."""


IDENTITY_ID = ""
"""The request id of the row that holds a ledger's identity, as its digest. No request may have it."""


class LedgerStatus(StrEnum):
    WRITTEN = "written"
    EXPIRED = "expired"
    """A tombstone: the request was answered `expired`, and this batch must never write it any more."""
    REJECTED = "rejected"
    """The mark of a request that was answered `rejected`: it keeps an attempt still under way from writing it."""
    IDENTITY = "identity"
    """The one row that is no request: see `IDENTITY_ID`."""


TOMBSTONES = (LedgerStatus.EXPIRED, LedgerStatus.REJECTED)
"""What takes an id's place without being written: another batch may write the id, the same one never."""

_REJECTED_BEFORE = Outcome.rejected(RejectCode.DATABASE, "refused in an earlier attempt at its batch")


@dataclass(frozen=True)
class LedgerEntry:
    """What the ledger knows of one request id.

    Attributes:
        request_id: The caller's idempotency key.
        status: What its caller was told: written, or fenced off as expired or rejected.
        batch_id: The batch that did so.
        committed_at: When, by the clock of the worker that did so; with its zone.
        digest: `digest` of its records.
    """

    request_id: str
    status: LedgerStatus
    batch_id: str
    committed_at: datetime
    digest: str


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is no JSON value")


_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=_plain, check_circular=False).encode


class NotJson(ValueError):
    """The records hold something that is no JSON value."""


def digest(records: Sequence[Record]) -> str:
    """A short hash of the records as canonical JSON: the order of an object's keys does not matter, all else does.

    Raises:
        NotJson: With what is wrong.
    """
    try:
        text = _encode([[record.table, record.values] for record in records])
    except (TypeError, ValueError, RecursionError) as err:
        raise NotJson(f"the records are not JSON: {err}") from None
    return blake2b(text.encode(), digest_size=16).hexdigest()


def request_id_fault(request_id: str) -> str | None:
    """Why the ledger cannot hold an id, or None if it can. The same for every sink, so that tests tell the truth."""
    if not isinstance(request_id, str) or not request_id:
        return "the request id must be a string that is not empty"
    if "\x00" in request_id:
        return "the request id must not hold the character U+0000"
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
    """The answer that the ledger gives to a request, or None if the request may be written.

    A batch without an id cannot recognise its own earlier attempt, so to it every known id is a duplicate.
    """
    if known is None:
        return None
    if known.status in TOMBSTONES:
        if known.batch_id != batch_id:  # the caller submitted the id anew after it was told so
            return None
        return Outcome.expired() if known.status is LedgerStatus.EXPIRED else _REJECTED_BEFORE
    if known.digest != digest:
        return id_reused(known.batch_id)
    return Outcome.written() if batch_id and known.batch_id == batch_id else Outcome.duplicate()


def id_reused(batch_id: str) -> Outcome:
    where = f"in batch {batch_id}" if batch_id else "before"
    return Outcome.rejected(RejectCode.ID_REUSED, f"this request id was written {where} with other records")
