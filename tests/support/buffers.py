"""Buffers, submissions and batches in few words, for the tests of the buffer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import groupby, zip_longest
from typing import Any

from temporal_batching.batcher.batches import PendingBatch
from temporal_batching.batcher.buffer import Buffer
from temporal_batching.batcher.state import BatcherState
from temporal_batching.contract import JsonObject, ReplyTo
from temporal_batching.policy import BatchPolicy
from temporal_batching.wire.parcels import Parcel, ParcelSource
from temporal_batching.wire.submission import ENVELOPE_BYTES, Submission, read_submission

NOW = 1_000_000.0


def policy(**limits: Any) -> BatchPolicy:
    """A policy; one batch at a time, unless a test says otherwise."""
    seconds = {"linger", "confirmation_timeout", "retry_initial", "retry_max", "deadline_margin", "flush_timeout"}
    given: dict[str, Any] = {k: timedelta(seconds=v) if k in seconds else v for k, v in limits.items()}
    return BatchPolicy(**{"max_in_flight": 1, **given})


def buffer(**limits: Any) -> Buffer:
    return Buffer("main-0", policy(**limits))


def caller(name: str) -> ReplyTo:
    return ReplyTo(name, "run", "1")


def carried(buf: Buffer) -> JsonObject:
    """What a run carries of its buffer, as the next one reads it."""
    state: JsonObject = json.loads(json.dumps(BatcherState(buffer=buf.carry()).to_wire()["buffer"]))
    return state


def restored(state: JsonObject) -> Buffer:
    return Buffer.restore("main-0", BatcherState.from_wire({"buffer": state}).buffer)


def submission(
    request_id: str,
    *callers: str,
    n: Any = 1,
    records: int = 1,
    expires_at: float | None = None,
    resubmitted: bool = False,
    waited: float | None = None,
    key: str = "",
) -> Submission:
    wire = {
        "request_id": request_id,
        "key": key,
        "records": [{"table": "t", "values": {"n": n}}] * records,
        "expires_at": expires_at,
        "reply_to": [caller(name).to_wire() for name in callers or [f"w-{request_id}"]],
        "resubmitted": resubmitted,
        "waited": waited,
    }
    return read_submission(wire)


def parcel(parcel_id: str, *request_ids: str, keys: Sequence[str] = ()) -> Submission:
    records = [{"table": "t", "values": {"n": 1}}]
    requests = [
        {"request_id": i, "key": key, "records": records} for i, key in zip_longest(request_ids, keys, fillvalue="")
    ]
    return read_submission({"request_id": parcel_id, "requests": requests, "reply_to": caller(parcel_id).to_wire()})


def with_many_keys(parcel_id: str, *request_ids: str) -> Submission:
    """A parcel by reference that does not name its keys."""
    plain = parcel(parcel_id, *(request_ids or (f"{parcel_id}/1",)))
    assert isinstance(plain.body, Parcel)
    packed = plain.body.pack(plain.size - ENVELOPE_BYTES)
    packed = replace(packed, announced=replace(packed.announced, keys=None))
    return replace(plain, body=packed).by_reference(ParcelSource(parcel_id, "run"))


def take(buf: Buffer, now: float, **options: Any) -> PendingBatch:
    batch = buf.next_batch(now, **options)
    assert batch is not None
    return batch


def ids(batch: PendingBatch) -> list[str]:
    return [e.id for e in batch.submissions]


def confirmations(buf: Buffer) -> list[tuple[str, str, str | None, list[str | None]]]:
    """The confirmations in the outbox: request, outcome, code, and the workflows that receive them."""
    deliveries = buf.next_deliveries()
    buf.delivered([])
    queued = [
        ((one.confirmation.request_id, str(one.confirmation.outcome), one.confirmation.code), one.reply_to.workflow_id)
        for one in deliveries
        if one.confirmation is not None
    ]
    return [(*what, [who for _, who in them]) for what, them in groupby(queued, key=lambda one: one[0])]
