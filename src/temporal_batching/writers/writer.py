"""`BatchWriter`: how a workflow writes. Runs inside workflows; knows names and shapes, never a sink or a client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, Literal

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError

from temporal_batching.contract import (
    ACTIVITY_RETURNED,
    ACTIVITY_WITHDRAW,
    ACTIVITY_WRITE,
    ACTIVITY_WRITE_MANY,
    DEFAULT_BATCHER,
    INSERT,
    SIGNAL_ADD,
    SIGNAL_WITHDRAW,
    Confirmation,
    JsonObject,
    Operation,
    OutcomeKind,
    ParcelReceipt,
    Record,
    ReplyTo,
    ReturnedRow,
    WriteRequest,
)
from temporal_batching.errors import InvalidRequest, WriteExpired, WriteNotConfirmed, WriteNotSubmitted, WriteRejected
from temporal_batching.logs import about_requests
from temporal_batching.policy import CONFIRMATION_TIMEOUT, BatchPolicy
from temporal_batching.routing import batcher_workflow_id, check_name, check_shards, default_task_queue, shard_of
from temporal_batching.tracing import tracing
from temporal_batching.wire.deadlines import deadline_after
from temporal_batching.wire.encoding import encode_request
from temporal_batching.wire.submission import read_submission
from temporal_batching.writers.attempts import ATTEMPT_TIMEOUT, activity_times, check_timeout
from temporal_batching.writers.details import WriteLog
from temporal_batching.writers.failures import EXPIRED, rejected_before_submission, rejection_message, write_error
from temporal_batching.writers.inbox import Inbox
from temporal_batching.writers.many import read_returned, room_of_this_run, write_parcels
from temporal_batching.writers.nexus import OperationFailed, check_way, execute_operation
from temporal_batching.writers.parcels import (
    ManyWrites,
    OutgoingParcel,
    ParcelFailure,
    ParcelLimits,
    WriteResult,
    numbered_ids,
)
from temporal_batching.writers.retries import pause_before_retry
from temporal_batching.writers.summaries import RETRY, WITHDRAWAL, returned_summary, write_summary
from temporal_batching.writers.traces import followed, traced


class BatchWriter:
    """Writes through a batcher, from inside a workflow.

    Example:
        ```python
        from temporalio import workflow

        with workflow.unsafe.imports_passed_through():
            from temporal_batching import BatchWriter

        @workflow.defn
        class Payment:
            @workflow.run
            async def run(self, account: str, amount: str) -> str:
                batcher = BatchWriter("main")
                confirmation = await batcher.write("entries", {"account": account, "amount": amount}, key=account)
                return confirmation.batch_id
        ```

    Args:
        name: The batcher's name.
        via: The way in. ``"activity"`` runs the activity ``batch_write``; ``"signal"`` signals the batcher and waits
            for a signal back, which needs no activity worker of the batcher for the submission, but costs more.
            ``"nexus"`` (experimental) reaches a batcher of another namespace.
        endpoint: With ``via="nexus"``: the Nexus endpoint whose target is the batcher's namespace and task queue.
        gateway: Where the activity runs: on the batcher's workers, or ``"local"``, on this workflow's own task queue,
            whose worker then needs `GatewayPlugin`. Local saves a round trip through the server per write.
        shards: How many shards the batcher has. Used with ``via="signal"`` and by `write_many`, which route here.
        policy: The batcher's policy, if it is not the default: `write_many` cuts its parcels for its limits.
        task_queue: The batcher's task queue; by default `default_task_queue` of its name. With ``via="nexus"`` the
            endpoint names it.
        timeout: How long to wait for a confirmation, unless a write says otherwise.
        attempt_timeout: How long one attempt of the activity may take before it is repeated: how soon a write
            recovers whose gateway was killed before it had submitted. Repeating is safe.

    Raises:
        ValueError: ``via`` or ``gateway`` is neither of those, ``endpoint`` is missing with ``via="nexus"`` or there
            without it, or ``gateway="local"`` with ``via="nexus"``.
        InvalidPolicy: A name or a number that no batcher, or no endpoint, can have.
    """

    def __init__(
        self,
        name: str = DEFAULT_BATCHER,
        *,
        via: Literal["activity", "signal", "nexus"] = "activity",
        endpoint: str | None = None,
        gateway: Literal["batcher", "local"] = "batcher",
        shards: int = 1,
        policy: BatchPolicy | None = None,
        task_queue: str | None = None,
        timeout: timedelta = CONFIRMATION_TIMEOUT,
        attempt_timeout: timedelta = ATTEMPT_TIMEOUT,
    ) -> None:
        if via not in ("activity", "signal", "nexus"):
            raise ValueError(f"via {via!r}: 'activity', 'signal' or 'nexus'")
        if gateway not in ("batcher", "local"):
            raise ValueError(f"gateway {gateway!r}: 'batcher' or 'local'")
        self._endpoint = check_way(via, endpoint, gateway)
        self._name = check_name(name)
        self._via = via
        self._batcher_queue = task_queue or default_task_queue(name)
        self._task_queue = self._batcher_queue if gateway == "batcher" else None
        self._shards = check_shards(shards)
        self._limits = ParcelLimits.of(policy or BatchPolicy())
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
            request_id: The idempotency key; by default a fresh one, which replays keep. A reset to before it was drawn
                draws another.
            timeout: How long to wait for the confirmation; the writer's own by default.

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
            request_id: The idempotency key; by default a fresh one, which replays keep. A reset to before it was
                drawn draws another.
            timeout: How long to wait for the confirmation; by default the timeout given at construction.

        Returns:
            The confirmation; its outcome is `written`, or `duplicate` if the id was written before.

        Raises:
            WriteNotSubmitted: It could not be submitted; it is not and will not be written.
            WriteNotConfirmed: No confirmation came in time; it may or may not be written.
            WriteExpired: Its deadline passed first; it is not and will not be written.
            WriteRejected: The batcher or the sink refused it.
        """
        request_id = request_id if request_id is not None else str(workflow.uuid4())
        timeout = self._timeout if timeout is None else timeout
        try:
            check_timeout(timeout)
            wire = encode_request(WriteRequest(request_id, records, key))
            read_submission(wire)  # a write that no batch can take fails here, and costs the batcher nothing
        except InvalidRequest as err:
            raise rejected_before_submission(request_id, err) from None
        except RecursionError:
            raise rejected_before_submission(request_id, InvalidRequest("a value is nested too deeply")) from None
        write = {"signal": self._write_by_signal, "nexus": self._write_by_nexus}.get(self._via, self._write_by_activity)
        with self._log().write(self._name, request_id) as settle:
            return settle(await followed(write(traced(wire), timeout)))

    async def write_many(
        self, requests: Sequence[WriteRequest | Record], *, timeout: timedelta | None = None
    ) -> list[WriteResult]:
        """Writes many independent requests, in parcels of up to a batch each: far cheaper than one by one.

        1,000 records cost about ten activities. One request's outcome does not affect another's, so nothing is raised
        for them: every request gets its own result. Requests of one key are applied in their order here; parcels that
        share a key therefore go one after the other. A cancellation withdraws the parcels under way, and is raised.

        What is written stays in the workflow's history: to write more than some 10 MB, let activities write with
        `BatchClient`, or continue as new.

        Example:
            ```python
            from temporalio import workflow

            with workflow.unsafe.imports_passed_through():
                from temporal_batching import BatchWriter, Confirmation, Record, WriteRequest

            @workflow.defn
            class Import:
                @workflow.run
                async def run(self, accounts: list[str]) -> int:
                    requests = [
                        WriteRequest(f"import-{n}", [Record("entries", {"account": account, "amount": "1.00"})])
                        for n, account in enumerate(accounts)
                    ]
                    results = await BatchWriter("main").write_many(requests)
                    good = ("written", "duplicate")
                    return sum(isinstance(one, Confirmation) and one.outcome in good for one in results)
            ```

        Args:
            requests: Each commits by itself. A bare `Record` becomes a request with a fresh id, which replays keep.
            timeout: How long each parcel waits for its confirmation; by default the timeout given at construction.

        Returns:
            For each request, in order: its `Confirmation`, whose outcome may be `rejected` or `expired`, or the
            `WriteError` if there is no confirmation.

        Raises:
            ValueError: The writer has ``via="signal"``: only an activity has one reply for many requests.
            WriteRejected: The timeout is not more than zero, or `requests` is no list. Nothing is written.
        """
        if self._via == "signal":
            raise ValueError(
                "write_many with via='signal': only a writer with via='activity' or via='nexus' writes many at once"
            )
        timeout = self._timeout if timeout is None else timeout
        try:
            check_timeout(timeout)
        except InvalidRequest as err:
            raise rejected_before_submission("", err) from None
        writes = ManyWrites(requests, new_id=numbered_ids(lambda: str(workflow.uuid4())))
        submit = partial(self._submit_and_log, timeout=timeout)
        await write_parcels(writes, self._limits, self._shards, room_of_this_run(), submit)
        await read_returned(writes, self._read_returned_by_nexus if self._via == "nexus" else self._read_returned)
        return writes.results

    def _log(self) -> WriteLog:
        log = WriteLog.of_this_run()
        if self._via == "nexus":
            log.elsewhere.add(self._name)
        return log

    # By activity

    async def _read_returned(self, request_ids: list[str], read_from: str) -> dict[str, list[ReturnedRow | None]]:
        try:
            found: dict[str, list[ReturnedRow | None]] = await workflow.execute_activity(
                ACTIVITY_RETURNED,
                {"batcher": self._name, "request_ids": request_ids},
                task_queue=read_from or self._batcher_queue,
                result_type=dict[str, Any],
                summary=returned_summary(len(request_ids)),
                **activity_times(self._timeout, self._attempt_timeout),
            )
        except ActivityError as err:
            extra = about_requests(request_ids, batcher=self._name)
            workflow.logger.warning(
                "Returned values of %d requests could not be read: %s", len(request_ids), err.cause, extra=extra
            )
            return {}
        return found

    async def _submit_and_log(self, parcel: OutgoingParcel, *, timeout: timedelta) -> ParcelReceipt | ParcelFailure:
        submit = self._submit_parcel_by_nexus if self._via == "nexus" else self._submit_parcel
        with self._log().parcel(self._name, len(parcel)) as settle:
            answer = await submit(parcel, timeout=timeout)
            return settle(answer) if isinstance(answer, ParcelReceipt) else answer

    async def _submit_parcel(self, parcel: OutgoingParcel, *, timeout: timedelta) -> ParcelReceipt | ParcelFailure:
        parcel_id = f"parcel-{workflow.uuid4()}"
        try:
            receipt: ParcelReceipt = await workflow.execute_activity(
                ACTIVITY_WRITE_MANY,
                traced(parcel.to_wire(parcel_id, self._name)),
                task_queue=self._task_queue,
                result_type=ParcelReceipt,
                summary=parcel.summary(),
                **activity_times(timeout, self._attempt_timeout),
            )
        except ActivityError as err:
            if isinstance(err.cause, CancelledError):
                await asyncio.shield(self._withdraw_by_activity(parcel_id, parcel.shard_key))
                raise asyncio.CancelledError from err
            return ParcelFailure(err.cause, timeout)
        except asyncio.CancelledError:
            await asyncio.shield(self._withdraw_by_activity(parcel_id, parcel.shard_key))
            raise
        tracing().received(receipt)
        return receipt

    async def _write_by_activity(self, wire: JsonObject, timeout: timedelta) -> Confirmation:
        wire["batcher"] = self._name
        try:
            confirmation: Confirmation = await workflow.execute_activity(
                ACTIVITY_WRITE,
                wire,
                task_queue=self._task_queue,
                result_type=Confirmation,
                summary=write_summary(wire),
                **activity_times(timeout, self._attempt_timeout),
            )
        except ActivityError as err:
            if isinstance(err.cause, CancelledError):
                await asyncio.shield(self._withdraw_by_activity(wire["request_id"], wire["key"]))
                raise
            raise write_error(wire["request_id"], err.cause, timeout) from err
        except asyncio.CancelledError:
            await asyncio.shield(self._withdraw_by_activity(wire["request_id"], wire["key"]))
            raise
        return confirmation

    async def _withdraw_by_activity(self, request_id: str, key: str) -> None:
        """Withdraws what a cancelled caller asked for: what is still pending must not be written any more.

        Args:
            request_id: The request's, or the parcel's.
            key: What decides its shard; empty for the id.
        """
        with contextlib.suppress(ActivityError):  # the caller ends as cancelled, whether the withdrawal arrived or not
            await workflow.execute_activity(
                ACTIVITY_WITHDRAW,
                {"batcher": self._name, "request_id": request_id, "key": key},
                task_queue=self._task_queue,
                summary=WITHDRAWAL,
                schedule_to_close_timeout=timedelta(seconds=30),
                start_to_close_timeout=timedelta(seconds=10),
            )

    # By Nexus

    async def _write_by_nexus(self, wire: JsonObject, timeout: timedelta) -> Confirmation:
        wire["batcher"] = self._name
        try:
            confirmation: Confirmation = await execute_operation(
                self._endpoint,
                ACTIVITY_WRITE,
                wire,
                result_type=Confirmation,
                timeout=timeout,
                summary=write_summary(wire),
            )
        except OperationFailed as err:
            raise write_error(wire["request_id"], err.cause, timeout) from err.__cause__
        return confirmation

    async def _submit_parcel_by_nexus(
        self, parcel: OutgoingParcel, *, timeout: timedelta
    ) -> ParcelReceipt | ParcelFailure:
        try:
            receipt: ParcelReceipt = await execute_operation(
                self._endpoint,
                ACTIVITY_WRITE_MANY,
                traced(parcel.to_packed_wire(f"parcel-{workflow.uuid4()}", self._name)),
                result_type=ParcelReceipt,
                timeout=timeout,
                summary=parcel.summary(),
            )
        except OperationFailed as err:
            return ParcelFailure(err.cause, timeout)
        tracing().received(receipt)
        return receipt

    async def _read_returned_by_nexus(self, request_ids: list[str], _: str) -> dict[str, list[ReturnedRow | None]]:
        try:
            found: dict[str, list[ReturnedRow | None]] = await execute_operation(
                self._endpoint,
                ACTIVITY_RETURNED,
                {"batcher": self._name, "request_ids": request_ids},
                result_type=dict[str, Any],
                timeout=self._timeout,
                summary=returned_summary(len(request_ids)),
            )
        except OperationFailed as err:
            workflow.logger.warning("Returned values of %d requests could not be read: %s", len(request_ids), err.cause)
            return {}
        return found

    # By signal

    async def _write_by_signal(self, wire: JsonObject, timeout: timedelta) -> Confirmation:
        request_id = wire["request_id"]
        wire["expires_at"] = deadline_after(workflow.time(), timeout)
        info = workflow.info()
        wire["reply_to"] = ReplyTo(info.workflow_id, from_run_id=info.original_execution_run_id).to_wire()
        shard = shard_of(wire["key"] or request_id, self._shards)
        batcher = workflow.get_external_workflow_handle(batcher_workflow_id(self._name, shard))
        with Inbox.of_this_workflow().expect(request_id) as arrival:
            sending = asyncio.create_task(_signal_with_retries(batcher, wire))
            try:
                async with asyncio.timeout(timeout.total_seconds()):
                    # The answer may come before Temporal says that the signal has arrived.
                    either: list[asyncio.Future[Any]] = [sending, arrival]
                    await workflow.wait(either, return_when=asyncio.FIRST_COMPLETED)
                    if not arrival.done():
                        sending.result()
                    confirmation = await arrival
            except asyncio.CancelledError:
                await asyncio.shield(_withdraw_by_signal(batcher, request_id, sending))
                raise
            except TimeoutError:
                raise WriteNotConfirmed(
                    f"write {request_id}: no confirmation within {timeout}", request_id=request_id
                ) from None
            finally:
                _leave(sending)
        if confirmation.outcome == OutcomeKind.REJECTED:
            raise WriteRejected(
                rejection_message(request_id, confirmation.reason), request_id=request_id, confirmation=confirmation
            )
        if confirmation.outcome == OutcomeKind.EXPIRED:
            raise WriteExpired(EXPIRED.format(request_id), request_id=request_id, confirmation=confirmation)
        return confirmation


async def _signal_with_retries(batcher: workflow.ExternalWorkflowHandle[Any], wire: JsonObject) -> None:
    """Submits by signal, and retries until a batcher takes it: one may be about to be started.

    Raises:
        WriteNotSubmitted: None took it until shortly before the deadline. It gives up before the deadline, while it is
            certain that nothing was submitted.
    """
    began, attempt = workflow.time(), 0
    while True:
        attempt += 1
        try:
            await batcher.signal(SIGNAL_ADD, wire)
        except ApplicationError as err:
            now = workflow.time()
            pause = pause_before_retry(attempt, waited=now - began, left=wire["expires_at"] - now)
            if pause is None:
                raise WriteNotSubmitted(
                    f"write {wire['request_id']}: the batcher {batcher.id} took no signal in {attempt} "
                    f"attempt{'s' if attempt > 1 else ''}: {err.message}",
                    request_id=wire["request_id"],
                ) from err
            await workflow.sleep(pause, summary=RETRY)
        else:
            return


def _leave(sending: asyncio.Task[None]) -> None:
    """Ends an attempt to signal without waiting for it.

    The SDK does not cancel a signal that has left the workflow: it waits until Temporal says what became of it, which
    may be seconds after the caller's deadline while the server is busy.
    """
    sending.cancel()
    sending.add_done_callback(lambda task: task.cancelled() or task.exception())  # retrieves its exception


async def _withdraw_by_signal(
    batcher: workflow.ExternalWorkflowHandle[Any], request_id: str, sending: asyncio.Task[None]
) -> None:
    sending.cancel()
    await workflow.wait([sending])  # or the withdrawal could overtake the request
    info = workflow.info()
    with contextlib.suppress(ApplicationError):  # no batcher, nothing to withdraw
        await batcher.signal(SIGNAL_WITHDRAW, args=[request_id, info.workflow_id, info.original_execution_run_id])
