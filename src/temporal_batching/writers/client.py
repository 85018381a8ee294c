"""`BatchClient`: writes from programs outside workflows."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeAlias
from uuid import uuid4

from temporalio.client import ActivityFailureError, Client

from temporal_batching.batcher.handle import BatcherHandle
from temporal_batching.contract import (
    ACTIVITY_WRITE,
    ACTIVITY_WRITE_MANY,
    DEFAULT_BATCHER,
    Confirmation,
    JsonObject,
    Outcome,
    OutcomeKind,
    ParcelReceipt,
    Record,
    RejectCode,
    WriteRequest,
)
from temporal_batching.errors import (
    BatcherNotRunning,
    InvalidRequest,
    WriteError,
    WriteExpired,
    WriteRejected,
)
from temporal_batching.policy import CONFIRMATION_TIMEOUT, BatchPolicy
from temporal_batching.routing import check_name, check_shards, default_task_queue, shard_of
from temporal_batching.wire.encoding import encode_request
from temporal_batching.wire.submission import ENVELOPE_BYTES, Submission, read_submission
from temporal_batching.writers.attempts import ATTEMPT_TIMEOUT, activity_times
from temporal_batching.writers.failures import rejected_before_submission, write_error

WriteResult: TypeAlias = Confirmation | WriteError

PARCEL_BYTES = 400_000
"""Bytes of one parcel: large enough to be few, small enough that one does not fill the buffer."""

PARCEL_ENVELOPE_BYTES = ENVELOPE_BYTES + 100
"""Bytes of a parcel without its requests."""

PARCELS_UNDER_WAY = 16
"""Parcels of one `write_many` that wait for their confirmation at the same time."""


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
    ) -> Confirmation:
        """Writes one record and waits until it is committed.

        Args:
            table: The destination, by the name the sink knows.
            values: Column name to value: JSON, Decimal, datetime, date, time, UUID, bytes or Enum.
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
        return await self.write_all([Record(table, values)], key=key, request_id=request_id, timeout=timeout)

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
        try:
            confirmation: Confirmation = await self._run(ACTIVITY_WRITE, wire, Confirmation, timeout)
        except ActivityFailureError as err:
            raise write_error(request.request_id, err.cause, timeout) from err
        return confirmation

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
        timeout = timeout or self._timeout
        results: list[WriteResult | None] = [None] * len(requests)
        submissions: list[tuple[int, Submission]] = []
        for position, given in enumerate(requests):
            request = WriteRequest(str(uuid4()), [given]) if isinstance(given, Record) else given
            try:
                submissions.append((position, read_submission(encode_request(request))))
            except InvalidRequest as err:
                results[position] = rejected_before_submission(request.request_id, err)
        slots = asyncio.Semaphore(PARCELS_UNDER_WAY)

        async def one(parcel: list[tuple[int, Submission]], before: set[asyncio.Task[None]]) -> None:
            if before:
                await asyncio.wait(before)
            async with slots:
                for (position, _), result in zip(parcel, await self._write_parcel(parcel, timeout), strict=True):
                    results[position] = result

        latest: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            for parcel in self._parcels(submissions, await self._batch_limit()):
                # Concurrent parcels may overtake each other: those that share a key go one after the other.
                keys = {key for _, submission in parcel for key in submission.keys}
                task = group.create_task(one(parcel, {latest[key] for key in keys if key in latest}))
                latest.update(dict.fromkeys(keys, task))
        return [result for result in results if result is not None]

    def _parcels(
        self, submissions: list[tuple[int, Submission]], limit: BatchPolicy
    ) -> list[list[tuple[int, Submission]]]:
        """Requests of one shard, in order, as many as fit one batch."""
        most_bytes = min(PARCEL_BYTES, limit.max_batch_bytes)
        parcels: list[list[tuple[int, Submission]]] = []
        current: dict[int, tuple[list[tuple[int, Submission]], int, int]] = {}
        for position, submission in submissions:
            shard = shard_of(submission.routing_key, self._shards)
            parcel, records, size = current.get(shard, ([], 0, PARCEL_ENVELOPE_BYTES))
            own = submission.size - ENVELOPE_BYTES + 1  # a parcel has one envelope for all, and commas
            fits = (
                len(parcel) < limit.max_batch_size
                and records + submission.records <= limit.max_batch_records
                and size + own <= most_bytes
            )
            if not parcel or not fits:
                parcel, records, size = [], 0, PARCEL_ENVELOPE_BYTES
                parcels.append(parcel)
            parcel.append((position, submission))
            current[shard] = (parcel, records + submission.records, size + own)
        return parcels

    async def _write_parcel(self, parcel: list[tuple[int, Submission]], timeout: timedelta) -> list[WriteResult]:
        submissions = [submission for _, submission in parcel]
        first = submissions[0]
        wire: JsonObject = {
            "request_id": f"parcel-{uuid4()}",
            "shard_key": first.routing_key,
            "requests": [submission.body.to_wire() for submission in submissions],
        }
        try:
            receipt = await self._run(ACTIVITY_WRITE_MANY, wire, ParcelReceipt, timeout)
        except ActivityFailureError as err:
            if _is_too_large(write_error(first.id, err.cause, timeout)) and len(parcel) > 1:
                # The limits in force are narrower than those it was cut for: nothing of it was accepted.
                half = len(parcel) // 2
                first_half = await self._write_parcel(parcel[:half], timeout)
                return [*first_half, *await self._write_parcel(parcel[half:], timeout)]
            return [_for_each(write_error(submission.id, err.cause, timeout)) for submission in submissions]
        return [_confirmation(receipt, position, submission.id) for position, submission in enumerate(submissions)]

    async def _batch_limit(self) -> BatchPolicy:
        """The limits in force, so that a parcel is a batch; the defaults while no shard runs."""
        try:
            stats = await BatcherHandle(self._client, self._name).stats()
        except BatcherNotRunning:
            return BatchPolicy()
        return BatchPolicy.from_wire(stats[0].policy)

    async def _run(self, activity: str, wire: JsonObject, result_type: type[Any], timeout: timedelta) -> Any:
        wire["batcher"] = self._name
        return await self._client.execute_activity(
            activity,
            wire,
            id=f"{activity}-{uuid4()}",
            task_queue=self._task_queue,
            result_type=result_type,
            **activity_times(timeout, self._attempt_timeout),
        )


def _is_too_large(error: WriteError) -> bool:
    return (
        isinstance(error, WriteRejected)
        and error.confirmation is not None
        and error.confirmation.code == RejectCode.TOO_LARGE
    )


def _for_each(error: WriteError) -> WriteResult:
    """A parcel that was refused or expired as a whole: each request in it has that outcome."""
    if isinstance(error, WriteExpired | WriteRejected) and error.confirmation is not None:
        known = error.confirmation
        return Confirmation(error.request_id, known.outcome, code=known.code, reason=known.reason)
    return error


def _confirmation(receipt: ParcelReceipt, position: int, request_id: str) -> Confirmation:
    outcome = receipt.others.get(str(position)) or Outcome(OutcomeKind.WRITTEN)
    return Confirmation(
        request_id=request_id,
        outcome=outcome.kind,
        batch_id=receipt.batch_id,
        batch_size=receipt.batch_size,
        shard=receipt.shard,
        settled_at=receipt.settled_at,
        code=outcome.code,
        reason=outcome.reason,
    )
