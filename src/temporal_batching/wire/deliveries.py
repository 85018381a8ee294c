"""Confirmations and receipts as they travel: without what they do not say, for they lie in histories."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from temporal_batching.contract import (
    Confirmation,
    Delivery,
    JsonObject,
    Outcome,
    OutcomeKind,
    ParcelReceipt,
    RejectCode,
)
from temporal_batching.wire.addresses import load_replies

_OF_A_BATCH = ("batch_id", "batch_size", "shard")


def confirmation_to_wire(confirmation: Confirmation) -> JsonObject:
    """A confirmation as a caller receives it; without a batch if its request got into none."""
    omitted = () if confirmation.batch_id else _OF_A_BATCH
    wire = {name: value for name, value in vars(confirmation).items() if value is not None and name not in omitted}
    if confirmation.settled_at is not None:
        wire["settled_at"] = confirmation.settled_at.isoformat()
    if confirmation.returned is not None:
        wire["returned"] = list(confirmation.returned)
    return wire


def receipt_to_wire(receipt: ParcelReceipt) -> JsonObject:
    """A parcel's receipt as its caller receives it."""
    wire: JsonObject = {
        "batch_id": receipt.batch_id,
        "batch_size": receipt.batch_size,
        "shard": receipt.shard,
        "settled_at": receipt.settled_at.isoformat() if receipt.settled_at else None,
        "others": {position: _outcome_to_wire(outcome) for position, outcome in receipt.others.items()},
    }
    if receipt.returned:
        wire["returned"] = dict(receipt.returned)
    if receipt.unread:
        wire["unread"] = True
    if receipt.traceparent is not None:
        wire["traceparent"] = receipt.traceparent
    if receipt.read_from:
        wire["read_from"] = receipt.read_from
    return wire


def load_confirmation(wire: Mapping[str, Any]) -> Confirmation:
    """The confirmation that `confirmation_to_wire` described. Fields that are not known are ignored."""
    code = wire.get("code")
    return Confirmation(
        wire["request_id"],
        OutcomeKind(wire["outcome"]),
        batch_id=wire.get("batch_id", ""),
        batch_size=wire.get("batch_size", 0),
        shard=wire.get("shard", 0),
        settled_at=_load_time(wire.get("settled_at")),
        code=RejectCode(code) if code else None,
        reason=wire.get("reason"),
        returned=wire.get("returned"),
        traceparent=wire.get("traceparent"),
    )


def load_receipt(wire: Mapping[str, Any]) -> ParcelReceipt:
    """The receipt that travelled. Fields that are not known are ignored."""
    others = {position: _load_outcome(outcome) for position, outcome in wire.get("others", {}).items()}
    return ParcelReceipt(
        wire["batch_id"],
        wire["batch_size"],
        wire["shard"],
        _load_time(wire.get("settled_at")),
        others,
        wire.get("returned", {}),
        wire.get("unread", False),
        wire.get("traceparent"),
        wire.get("read_from", ""),
    )


def delivery_to_wire(delivery: Delivery) -> JsonObject:
    """A delivery on its way to the activity that makes it, or to the next run."""
    wire: JsonObject = {"reply_to": delivery.reply_to.to_wire()}
    if delivery.confirmation is not None:
        wire["confirmation"] = confirmation_to_wire(delivery.confirmation)
    if delivery.receipt is not None:
        wire["receipt"] = receipt_to_wire(delivery.receipt)
    if delivery.unread:
        wire["unread"] = True
    return wire


def load_delivery(wire: Mapping[str, Any]) -> Delivery:
    """The delivery that `delivery_to_wire` described."""
    confirmation, receipt = wire.get("confirmation"), wire.get("receipt")
    return Delivery(
        load_replies([wire["reply_to"]])[0],
        load_confirmation(confirmation) if confirmation is not None else None,
        load_receipt(receipt) if receipt is not None else None,
        wire.get("unread", False),
    )


def _outcome_to_wire(outcome: Outcome) -> JsonObject:
    wire: JsonObject = {"kind": outcome.kind}
    return wire if outcome.code is None else {**wire, "code": outcome.code, "reason": outcome.reason}


def _load_outcome(wire: Mapping[str, Any]) -> Outcome:
    code = wire.get("code")
    return Outcome(OutcomeKind(wire["kind"]), RejectCode(code) if code else None, wire.get("reason"))


def _load_time(wire: str | None) -> datetime | None:
    return datetime.fromisoformat(wire) if wire else None
