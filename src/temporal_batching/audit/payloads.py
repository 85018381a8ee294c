"""Decodes the payloads in histories: the requests that callers sent, results, and confirmations."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from temporalio.api.common.v1 import Payloads
from temporalio.client import Client

from temporal_batching.audit.facts import UNREADABLE, ReadCounts, RequestContent
from temporal_batching.audit.store import FactStore
from temporal_batching.contents import Missing, read_parcel_of
from temporal_batching.contract import Record
from temporal_batching.errors import InvalidRequest
from temporal_batching.sinks.ledger import NotJson, digest, request_id_fault
from temporal_batching.wire.parcels import ParcelSource, decompress_requests
from temporal_batching.wire.records import load_record


@dataclass(frozen=True)
class SentRequest:
    """A request of a caller; ``digest`` identifies its records."""

    request_id: str
    digest: str
    key: str = ""


@dataclass(frozen=True)
class SentRequests:
    """Requests that were sent together.

    Attributes:
        at: The time of sending, in seconds since the epoch.
        requests: The requests in their order: the results of a parcel are assigned by position.
        parcel: Whether they are a parcel.
        timeout: The timeout of the activity, if an activity sent them.
    """

    at: float
    requests: tuple[SentRequest, ...]
    parcel: bool = False
    timeout: timedelta = timedelta(0)


class PayloadReader:
    """Decodes payloads, and stores the contents of the requests in them.

    Args:
        client: Its data converter decodes the payloads; it reads the parcels that a shard knows by reference.
        store: Where the contents are stored.
        counts: Counts the payloads that cannot be read.
        batcher: The name of the batcher that is audited.
        task_queue: The queue whose requests belong to this batcher if they name none.

    Attributes:
        converter: Decodes the payloads.
    """

    def __init__(self, client: Client, store: FactStore, counts: ReadCounts, *, batcher: str, task_queue: str) -> None:
        self.converter = client.data_converter
        self._client = client
        self._store = store
        self._counts = counts
        self._batcher = batcher
        self._task_queue = task_queue

    async def decode(self, payloads: Payloads) -> Any:
        """The value of a payload; None if this client cannot decode it."""
        try:
            values = await self.converter.decode(payloads.payloads)
        except Exception:  # a codec may raise anything on a payload that it did not encode
            return None
        return values[0] if values else None

    async def read_sent(
        self,
        payloads: Payloads,
        at: float,
        *,
        default_id: str = "",
        task_queue: str = "",
        timeout: timedelta = timedelta(0),
    ) -> SentRequests | None:
        """The requests in a payload; None if there are none for this batcher.

        Args:
            payloads: The payload.
            at: The time of sending, in seconds since the epoch.
            default_id: The request id of a request that has none.
            task_queue: The queue that it was sent to.
            timeout: The timeout of the activity.
        """
        wire = await self.decode(payloads)
        if isinstance(wire, Mapping):
            # A caller in another language may leave out both. Then the task queue identifies the batcher.
            named = wire.get("batcher")
            ours = named == self._batcher if named is not None else task_queue in ("", self._task_queue)
            if not ours:
                return None
            wire = {**wire, "request_id": default_id} if wire.get("request_id") is None and default_id else wire
        parts = [self.read_wire(one, at) for one in (wire if isinstance(wire, list) else [wire])]
        known = [part for part in parts if part is not None]
        if not known:
            return None
        requests = tuple(request for part in known for request in part.requests)
        return SentRequests(at, requests, any(part.parcel for part in known), timeout)

    async def read_reference(self, wire: Mapping[str, Any]) -> Any:
        """A parcel by reference, with its content from where that lies; None if it cannot be read."""
        source = wire["source"]
        if not isinstance(source, list) or len(source) != 2:
            self._counts.unreadable += 1
            return None
        packed = await read_parcel_of(self._client, ParcelSource(str(source[0]), str(source[1])))
        if isinstance(packed, Missing):
            if packed.gone:
                self._counts.gone_parcels += 1
            else:
                self._counts.unreadable += 1
            return None
        return {**wire, "packed": packed}

    def read_wire(self, wire: Any, at: float) -> SentRequests | None:
        """The requests in a decoded request or parcel; None if it is neither."""
        if not isinstance(wire, Mapping):
            self._counts.unreadable += 1
            return None
        bodies = wire.get("requests")
        if wire.get("packed") is not None:
            with contextlib.suppress(InvalidRequest):
                bodies = decompress_requests(wire["packed"])
        if isinstance(bodies, list):
            return SentRequests(at, tuple(self._read_body(body) for body in bodies), parcel=True)
        return SentRequests(at, (self._read_body(wire),))

    def _read_body(self, body: Any) -> SentRequest:
        if not isinstance(body, Mapping) or not isinstance(body.get("request_id"), str):
            self._counts.unreadable += 1
            # It keeps its position: the results of a parcel are assigned by position.
            return SentRequest("", UNREADABLE)
        request_id, key, records = body["request_id"], body.get("key"), _read_records(body.get("records"))
        mark = UNREADABLE
        if records is not None and request_id_fault(request_id) is None:
            # A user's codec may return a value that is not JSON; then the batcher has rejected the request.
            with contextlib.suppress(NotJson, TypeError, ValueError, RecursionError):
                mark = digest(records)
                self._store.add_content(RequestContent(request_id, mark, records))
        return SentRequest(request_id, mark, key if isinstance(key, str) else "")


def _read_records(wire: Any) -> list[Record] | None:
    if not isinstance(wire, list):
        return None
    records = []
    for one in wire:
        if not isinstance(one, Mapping) or not isinstance(one.get("table"), str):
            return None
        if not isinstance(one.get("values"), Mapping):
            return None
        try:
            records.append(load_record({**one, "returning": ()}))
        except (TypeError, ValueError, AttributeError):  # its references are not those of a record
            return None
    return records
