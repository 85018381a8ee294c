"""`BatchWriter`: how a workflow writes. Runs inside workflows; knows names and shapes, never a sink or a client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError

from temporal_batching.contract import (
    ACTIVITY_WITHDRAW,
    ACTIVITY_WRITE,
    DEFAULT_BATCHER,
    SIGNAL_ADD,
    SIGNAL_WITHDRAW,
    Confirmation,
    JsonObject,
    OutcomeKind,
    Record,
    ReplyTo,
    WriteRequest,
)
from temporal_batching.errors import InvalidRequest, WriteExpired, WriteNotConfirmed, WriteNotSubmitted, WriteRejected
from temporal_batching.policy import CONFIRMATION_TIMEOUT
from temporal_batching.routing import batcher_workflow_id, check_name, check_shards, default_task_queue, shard_of
from temporal_batching.wire.deadlines import deadline_after
from temporal_batching.wire.encoding import encode_request
from temporal_batching.wire.submission import read_submission
from temporal_batching.writers.attempts import ATTEMPT_TIMEOUT, activity_times
from temporal_batching.writers.failures import EXPIRED, rejected_before_submission, rejection_message, write_error
from temporal_batching.writers.inbox import Inbox
from temporal_batching.writers.retries import pause_before_retry


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
        gateway: Where the activity runs: on the batcher's workers, or ``"local"``, on this workflow's own task queue,
            whose worker then needs `GatewayPlugin`. Local saves a round trip through the server per write.
        shards: How many shards the batcher has. Used only with ``via="signal"``, which routes here.
        task_queue: The batcher's task queue; by default `default_task_queue` of its name.
        timeout: How long to wait for a confirmation, unless a write says otherwise.
        attempt_timeout: How long one attempt of the activity may take before it is repeated: how soon a write
            recovers whose gateway was killed before it had submitted. Repeating is safe.
    """

    def __init__(
        self,
        name: str = DEFAULT_BATCHER,
        *,
        via: Literal["activity", "signal"] = "activity",
        gateway: Literal["batcher", "local"] = "batcher",
        shards: int = 1,
        task_queue: str | None = None,
        timeout: timedelta = CONFIRMATION_TIMEOUT,
        attempt_timeout: timedelta = ATTEMPT_TIMEOUT,
    ) -> None:
        if via not in ("activity", "signal"):
            raise ValueError(f"via {via!r}: 'activity' or 'signal'")
        if gateway not in ("batcher", "local"):
            raise ValueError(f"gateway {gateway!r}: 'batcher' or 'local'")
        self._name = check_name(name)
        self._via = via
        self._task_queue = (task_queue or default_task_queue(name)) if gateway == "batcher" else None
        self._shards = check_shards(shards)
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
            if not timedelta(0) < timeout:
                raise InvalidRequest(f"timeout {timeout}: more than zero")
            wire = encode_request(WriteRequest(request_id, records, key))
            read_submission(wire)  # a write that no batch can take fails here, and costs the batcher nothing
        except InvalidRequest as err:
            raise rejected_before_submission(request_id, err) from None
        except RecursionError:
            raise rejected_before_submission(request_id, InvalidRequest("a value is nested too deeply")) from None
        if self._via == "signal":
            return await self._write_by_signal(wire, timeout)
        return await self._write_by_activity(wire, timeout)

    # By activity

    async def _write_by_activity(self, wire: JsonObject, timeout: timedelta) -> Confirmation:
        wire["batcher"] = self._name
        try:
            confirmation: Confirmation = await workflow.execute_activity(
                ACTIVITY_WRITE,
                wire,
                task_queue=self._task_queue,
                result_type=Confirmation,
                summary=_summary(wire),
                **activity_times(timeout, self._attempt_timeout),
            )
        except ActivityError as err:
            if isinstance(err.cause, CancelledError):
                await asyncio.shield(self._withdraw_by_activity(wire))
                raise
            raise write_error(wire["request_id"], err.cause, timeout) from err
        except asyncio.CancelledError:
            await asyncio.shield(self._withdraw_by_activity(wire))
            raise
        return confirmation

    async def _withdraw_by_activity(self, wire: JsonObject) -> None:
        """Withdraws the request of a cancelled caller: what is still pending must not be written any more."""
        with contextlib.suppress(ActivityError):  # the caller ends as cancelled, whether the withdrawal arrived or not
            await workflow.execute_activity(
                ACTIVITY_WITHDRAW,
                {name: wire[name] for name in ("batcher", "request_id", "key")},
                task_queue=self._task_queue,
                schedule_to_close_timeout=timedelta(seconds=30),
                start_to_close_timeout=timedelta(seconds=10),
            )

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
            await asyncio.sleep(pause)
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


def _summary(wire: JsonObject) -> str:
    """The activity's summary in the Web UI: the tables and the number of records, nothing of their values."""
    tables = list(dict.fromkeys(record["table"] for record in wire["records"]))
    count = len(wire["records"])
    return f"{count} record{'s' if count > 1 else ''} to {', '.join(tables)}"[:200]
