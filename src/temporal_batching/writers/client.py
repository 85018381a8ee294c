"""`BatchClient`: writes from programs outside workflows."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from secrets import token_hex
from typing import Any
from uuid import uuid4

from temporalio.client import ActivityFailureError, Client

from temporal_batching.batcher.handle import BatcherHandle
from temporal_batching.contract import (
    ACTIVITY_RETURNED,
    ACTIVITY_WRITE,
    ACTIVITY_WRITE_MANY,
    DEFAULT_BATCHER,
    INSERT,
    Confirmation,
    JsonObject,
    Operation,
    ParcelReceipt,
    Record,
    ReturnedRow,
    WriteRequest,
)
from temporal_batching.errors import BatcherNotRunning, InvalidRequest
from temporal_batching.logs import about_requests
from temporal_batching.policy import CONFIRMATION_TIMEOUT, BatchPolicy
from temporal_batching.routing import check_name, check_shards, default_task_queue
from temporal_batching.tracing import tracing
from temporal_batching.wire.encoding import encode_request
from temporal_batching.wire.submission import read_submission
from temporal_batching.writers.attempts import ATTEMPT_TIMEOUT, activity_times, check_timeout
from temporal_batching.writers.failures import rejected_before_submission, write_error
from temporal_batching.writers.many import Room, read_returned, write_parcels
from temporal_batching.writers.parcels import (
    PACKED_PARCEL_BYTES,
    ManyWrites,
    OutgoingParcel,
    ParcelFailure,
    ParcelLimits,
    WriteResult,
    numbered_ids,
)
from temporal_batching.writers.summaries import returned_summary, write_summary
from temporal_batching.writers.traces import followed, traced

UNIQUE_BYTES = 12
"""Random bytes in the ids of one call of `write_many`: among 10^12 calls two are alike with a probability of 10^-5."""

logger = logging.getLogger(__name__)


class BatchClient:
    """Writes through a batcher, from a program. Needs a Temporal server with standalone activities.

    Example:
        ```python
        from temporal_batching import BatchClient, Record
        from temporalio.client import Client

        async def book() -> None:
            batcher = BatchClient(await Client.connect("localhost:7233"), "main")
            confirmation = await batcher.write("entries", {"account": "a-1", "amount": "9.50"}, request_id="booking-1")
            print(confirmation.outcome)
            results = await batcher.write_many([Record("entries", {"account": "a-2", "amount": "1.00"})] * 1000)
            print(len(results))
        ```

    Args:
        client: A client of the batcher's namespace.
        name: The batcher's name.
        shards: How many shards it has.
        task_queue: The task queue of its workers.
        timeout: How long to wait for a confirmation, unless a write says otherwise.
        attempt_timeout: How long one attempt to submit a write may go unanswered before it is repeated.
    """

    def __init__(
        self,
        client: Client,
        name: str = DEFAULT_BATCHER,
        *,
        shards: int = 1,
        task_queue: str | None = None,
        timeout: timedelta = CONFIRMATION_TIMEOUT,
        attempt_timeout: timedelta = ATTEMPT_TIMEOUT,
    ) -> None:
        self._client = client
        self._name = check_name(name)
        self._shards = check_shards(shards)
        self._task_queue = task_queue or default_task_queue(name)
        self._timeout = timeout
        self._attempt_timeout = attempt_timeout

    async def write(
        self,
        table: str,
        values: Mapping[str, Any],
        *,
        key: str = "",
        request_id: str | None = None,
        timeout: timedelta | None = None,
        returning: Sequence[str] = (),
        operation: Operation = INSERT,
    ) -> Confirmation:
        """Writes one record and waits until it is committed.

        Args:
            table: The destination, by the name the sink knows.
            values: Column name to value: JSON, Decimal, datetime, date, time, UUID, bytes or Enum.
            returning: Columns whose values in the database come back, in ``confirmation.returned[0]``: a generated key,
                a default, what a trigger has set.
            operation: ``insert``, ``update`` or ``delete``; the table's rule says which it allows.
            key: Requests with one key are applied in the order they arrive. Empty: no order.
            request_id: The idempotency key; by default a fresh one. Give one of your own if the
                program may be run again.
            timeout: How long to wait for the confirmation; by default the timeout given at construction.

        Returns:
            The confirmation; its outcome is `written`, or `duplicate` if the id was written before.

        Raises:
            WriteNotSubmitted: It could not be submitted; it is not and will not be written.
            WriteNotConfirmed: No confirmation came in time; it may or may not be written.
            WriteExpired: Its deadline passed first; it is not and will not be written.
            WriteRejected: The batcher or the sink refused it.
        """
        record = Record(table, values, returning, operation)
        return await self.write_all([record], key=key, request_id=request_id, timeout=timeout)

    async def write_all(
        self,
        records: Sequence[Record],
        *,
        key: str = "",
        request_id: str | None = None,
        timeout: timedelta | None = None,
    ) -> Confirmation:
        """Writes records that commit together or not at all, and waits until they are committed.

        Args:
            records: At least one.
            key: Requests with one key are applied in the order they arrive. Empty: no order.
            request_id: The idempotency key; by default a fresh one. Give one of your own if the
                program may be run again.
            timeout: How long to wait for the confirmation; by default the timeout given at construction.

        Returns:
            The confirmation; its outcome is `written`, or `duplicate` if the id was written before.

        Raises:
            WriteNotSubmitted: It could not be submitted; it is not and will not be written.
            WriteNotConfirmed: No confirmation came in time; it may or may not be written.
            WriteExpired: Its deadline passed first; it is not and will not be written.
            WriteRejected: The batcher or the sink refused it.
        """
        request = WriteRequest(request_id if request_id is not None else str(uuid4()), records, key)
        try:
            wire = encode_request(request)
            read_submission(wire)
        except InvalidRequest as err:
            raise rejected_before_submission(request.request_id, err) from None
        timeout = timeout or self._timeout
        return await followed(self._submit(traced({**wire, "batcher": self._name}), timeout))

    async def write_many(
        self, requests: Sequence[WriteRequest | Record], *, timeout: timedelta | None = None
    ) -> list[WriteResult]:
        """Writes many independent requests, in parcels of up to a batch each: far cheaper than one by one.

        The failure of one request does not affect the others, so nothing is raised: every request has its own result.
        Requests of one key are applied in their order here; parcels that share a key therefore go one after the other.

        Args:
            requests: Each commits by itself. A bare `Record` becomes a request with a fresh id.
            timeout: How long each parcel waits for its confirmation.

        Returns:
            For each request, in order: its `Confirmation`, whose outcome may be `rejected` or `expired`, or the
            `WriteError` if there is no confirmation.
        """
        timeout = self._timeout if timeout is None else timeout
        try:
            check_timeout(timeout)
        except InvalidRequest as err:
            raise rejected_before_submission("", err) from None
        writes = ManyWrites(requests, new_id=numbered_ids(lambda: token_hex(UNIQUE_BYTES)))
        limits = ParcelLimits.of(await self._batch_limit(), size=PACKED_PARCEL_BYTES)
        await write_parcels(writes, limits, self._shards, Room(), partial(self._submit_parcel, timeout=timeout))
        await read_returned(writes, partial(self._read_returned, timeout=timeout))
        return writes.results

    async def _submit(self, wire: JsonObject, timeout: timedelta) -> Confirmation:
        try:
            summary = write_summary(wire)
            confirmation: Confirmation = await self._run(ACTIVITY_WRITE, wire, Confirmation, timeout, summary=summary)
        except ActivityFailureError as err:
            raise write_error(wire["request_id"], err.cause, timeout) from err
        return confirmation

    async def _read_returned(
        self, request_ids: list[str], read_from: str, *, timeout: timedelta
    ) -> dict[str, list[ReturnedRow | None]]:
        wire: JsonObject = {"batcher": self._name, "request_ids": request_ids}
        try:
            found: dict[str, list[ReturnedRow | None]] = await self._run(
                ACTIVITY_RETURNED,
                wire,
                dict[str, Any],
                timeout,
                summary=returned_summary(len(request_ids)),
                task_queue=read_from,
            )
        except ActivityFailureError as err:
            extra = about_requests(request_ids, batcher=self._name)
            logger.warning(
                "Returned values of %d requests could not be read: %s", len(request_ids), err.cause, extra=extra
            )
            return {}
        return found

    async def _submit_parcel(self, parcel: OutgoingParcel, *, timeout: timedelta) -> ParcelReceipt | ParcelFailure:
        wire = traced(parcel.to_packed_wire(f"parcel-{uuid4()}", self._name))
        try:
            summary = f"{len(parcel)} requests"
            receipt: ParcelReceipt = await self._run(ACTIVITY_WRITE_MANY, wire, ParcelReceipt, timeout, summary=summary)
        except ActivityFailureError as err:
            return ParcelFailure(err.cause, timeout)
        tracing().received(receipt)
        return receipt

    async def _batch_limit(self) -> BatchPolicy:
        """The limits in force, so that a parcel is a batch; the defaults while no shard runs."""
        try:
            stats = await BatcherHandle(self._client, self._name).stats()
        except BatcherNotRunning:
            return BatchPolicy()
        return BatchPolicy.from_wire(stats[0].policy)

    async def _run(
        self,
        activity: str,
        wire: JsonObject,
        result_type: type[Any],
        timeout: timedelta,
        *,
        summary: str,
        task_queue: str = "",
    ) -> Any:
        return await self._client.execute_activity(
            activity,
            wire,
            id=f"{activity}-{uuid4()}",
            task_queue=task_queue or self._task_queue,
            result_type=result_type,
            summary=summary,
            **activity_times(timeout, self._attempt_timeout),
        )
