"""What requests returned, on its way to their callers: in a confirmation, or read from the sink again.

The shard keeps addresses and ids, never returned values. A confirmation that did not arrive gets them from the sink
when it is sent again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from temporal_batching.contract import Delivery, ReturnedRow
from temporal_batching.errors import SinkUnavailable
from temporal_batching.logs import about_requests, logger
from temporal_batching.policy import MAX_MESSAGE_RETURNED
from temporal_batching.routing import batcher_of
from temporal_batching.sinks.base import Sink
from temporal_batching.wire.checks import measure


def without_returned(delivery: Delivery) -> Delivery:
    """A delivery as its shard keeps it."""
    confirmation, receipt = delivery.confirmation, delivery.receipt
    if confirmation is not None and confirmation.returned is not None:
        return replace(delivery, confirmation=replace(confirmation, returned=None), unread=True)
    if receipt is not None and receipt.returned:
        return replace(delivery, receipt=replace(receipt, returned={}, unread=True))
    return delivery


def readable_from(delivery: Delivery, task_queue: str) -> Delivery:
    """A delivery whose receipt says, if it has returned values, from which workers its caller can read them."""
    receipt = delivery.receipt
    if receipt is None or not (receipt.returned or receipt.unread):
        return delivery
    return replace(delivery, receipt=replace(receipt, read_from=task_queue))


async def with_returned(sink: Sink, deliveries: Sequence[Delivery]) -> list[Delivery]:
    """Deliveries as they are sent: what the shard left out is read from the sink.

    Raises:
        SinkUnavailable: It cannot be read now.
    """
    ids = [d.confirmation.request_id for d in deliveries if d.unread and d.confirmation is not None]
    found = await sink.read_returned(list(dict.fromkeys(ids))) if ids else {}
    return [_filled(delivery, found) for delivery in deliveries]


def check_can_read(sink: Sink | None, deliveries: Sequence[Delivery], *, batcher: str) -> None:
    """Checks that a worker can read what deliveries lack.

    In another batcher's ledger nothing would be found, and the caller would be told that nothing was returned.

    Raises:
        SinkUnavailable: It has no sink, or that of another batcher.
    """
    for delivery in deliveries:
        if delivery.unread and delivery.confirmation is not None:
            meant = batcher_of(delivery.confirmation.batch_id)
            if sink is None or meant != batcher:
                raise SinkUnavailable(f"this worker has no sink of the batcher '{meant}'")


def _filled(delivery: Delivery, found: Mapping[str, Sequence[ReturnedRow | None]]) -> Delivery:
    confirmation = delivery.confirmation
    if not delivery.unread or confirmation is None:
        return delivery
    returned = found.get(confirmation.request_id)
    if returned is None:
        extra = about_requests([confirmation.request_id], batch_id=confirmation.batch_id)
        logger.warning("The sink no longer knows what %r returned", confirmation.request_id, extra=extra)
        return replace(delivery, unread=False)
    return replace(delivery, confirmation=replace(confirmation, returned=list(returned)), unread=False)


async def read_page(sink: Sink, request_ids: Sequence[str]) -> dict[str, Sequence[ReturnedRow | None]]:
    """What requests returned, as many of them as one message holds, from the first on; at least one.

    Raises:
        SinkUnavailable: It cannot be read now.
    """
    found = await sink.read_returned(request_ids)
    page: dict[str, Sequence[ReturnedRow | None]] = {}
    room = MAX_MESSAGE_RETURNED
    for request_id in request_ids:
        returned = found.get(request_id)
        if returned is None:
            continue
        room -= measure(returned)
        if page and room < 0:
            break
        page[request_id] = returned
    return page
