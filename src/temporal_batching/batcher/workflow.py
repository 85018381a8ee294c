"""`BatcherWorkflow`: one shard. Handlers, the flush loop and continue-as-new; every decision is the `Buffer`'s.

Rules for changes to this file. It replays the histories of every release (``tests/replay/``): from 1.0 on, a change to
the order or kind of its commands needs ``workflow.patched``. No handler may raise anything but `ApplicationError`, and
none awaits: an exception would fail the workflow task forever, and a handler in progress would delay
continue-as-new. An update with the wrong number of arguments fails its validator, and so only its sender.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy
from temporalio.exceptions import ActivityError

from temporal_batching.batcher import details
from temporal_batching.batcher.batches import PendingBatch
from temporal_batching.batcher.buffer import Buffer
from temporal_batching.batcher.figures import buffer_stats
from temporal_batching.batcher.flush_failures import flush_failure, untaken_after
from temporal_batching.batcher.limits import BufferFull
from temporal_batching.batcher.messages import busy, decode_submission, read_control
from temporal_batching.batcher.signals import SignalQueue
from temporal_batching.batcher.state import BatcherState, BufferState
from temporal_batching.batcher.upgrade import Upgrade, initial_behavior
from temporal_batching.contract import (
    ACTIVITY_CANCEL,
    ACTIVITY_CONFIRM,
    ACTIVITY_FLUSH,
    ACTIVITY_POLICY,
    QUERY_BATCH,
    QUERY_STATS,
    UPDATE_CONTROL,
    UPDATE_SUBMIT,
    WORKFLOW_BATCHER,
    BatcherStart,
    BatcherStats,
    Delivery,
    DeliveryResult,
    FlushInput,
    FlushResult,
    JsonObject,
    Refusal,
    RejectCode,
    SubmitResult,
)
from temporal_batching.errors import InvalidRequest
from temporal_batching.logs import about_requests
from temporal_batching.policy import CARRY_LIMIT_BYTES, BatchPolicy
from temporal_batching.web_ui import show_details
from temporal_batching.wire.decoding import decode_payload
from temporal_batching.wire.deliveries import delivery_to_wire
from temporal_batching.wire.submission import read_submission

MAX_SIGNALS_PER_RUN = 2_000
"""Of Temporal's 10,000 a run, which its suggestion does not count. Well below, for two reasons: a short run replays
quickly, and while a run ends, with a flush in flight, signals keep coming."""

MAX_UPDATES_PER_RUN = 1_800
"""Of Temporal's 2,000 a run."""

MAX_IDLE_CYCLES = 10
"""Runs in a row that complete no request though some wait: then cycling stops until one is completed."""

HEARTBEAT_TIMEOUT = timedelta(seconds=5)
"""How soon a flush whose worker died is noticed."""

HISTORY_WARNING = 10_240
"""Events of one run from which on the server warns."""

MAX_HISTORY_BYTES = 16 * 1_048_576
"""Of one run's 50 MiB. Past it a run that is to end takes no more requests; what it holds may enter history a second
time, with its flushes."""

MAX_TASK_BYTES = 1_048_576
"""Content of batches past which one workflow task starts no other flush. Its commands are one message of at most 4 MiB:
the server ends a workflow whose message is larger. So there is room for one more batch, whatever its size."""

LONGEST_TIMER = 86_400.0
"""Seconds; a timer for something later fires once a day and is set again."""

CANCELLED = "the shard was cancelled: it takes no more requests, and can be started again once it has ended"

MAX_GATHER = 2.0
"""Seconds a gateway may gather at most; a tenth of the linger otherwise. Callers lose no time by it, as the linger
counts from the gateway; and each update that is not sent saves Temporal four requests and this history five events.
Not more: what a gateway holds when its process dies is resubmitted only by the next attempt of its activity."""


# Outside the sandbox: it would check every call of code that is ours and pure, a fifth of the time a signal takes.
@workflow.defn(name=WORKFLOW_BATCHER, sandboxed=False)
class BatcherWorkflow:
    """Gathers write requests, has them flushed in batches, and continues as new forever."""

    @workflow.init
    def __init__(self, start: BatcherStart) -> None:
        self._start = start
        if start.state is not None:
            state = BatcherState.from_wire(start.state)
        else:
            state = BatcherState(BufferState(BatchPolicy.from_wire(start.policy or {})))
        self._epoch = _epoch(state.epoch)
        self._buffer = Buffer.restore(f"{start.batcher}-{start.shard}.{self._epoch}", state.buffer)
        self._cycles = state.cycles
        self._idle_cycles = state.idle_cycles
        self._signals = SignalQueue(self._buffer)
        self._signals.malformed = state.malformed
        self._operator_policy = state.operator_policy
        self._cancelled = state.cancelled  # this run, or one before it
        self._buffer.ending = self._cancelled
        self._ledger = state.ledger  # that it may have been written to
        self._ledger_asked = state.ledger_asked
        self._upgrade = Upgrade(state.upgrade_tried)
        self._cancel_requested = False  # this run: without it none can end as cancelled
        self._settled_before = self._buffer.counts.settled
        self._failures_before = self._buffer.counts.attempts_that_failed
        self._signals_received = 0
        self._updates = 0
        self._flush_task_queue = start.flush_task_queue or state.flush_task_queue
        self._policy_known = start.state is not None or None not in (start.policy, start.flush_task_queue)
        self._yielding = False
        self._task_began_at = 0  # the events before the current workflow task: they tell it from others
        self._task_bytes = 0
        self._awake = True  # what was carried over may be due
        self._timer: asyncio.Task[None] | None = None
        self._timer_at = 0.0

    @workflow.run
    async def run(self, start: BatcherStart) -> None:
        """Serves until it continues as new; it never completes."""
        show_details(self._details)
        if self._cancelled:  # a cancellation does not survive continue-as-new
            asyncio.create_task(self._repeat_cancellation())  # noqa: RUF006  the SDK's event loop keeps its tasks
        if not self._policy_known:
            asking = asyncio.create_task(self._ask_for_policy())
            await self._despite_cancellation(lambda: asyncio.shield(asking))
        while True:
            await self._despite_cancellation(
                lambda: workflow.wait_condition(lambda: self._awake or bool(self._signals and not self._yielding))
            )
            self._read_signals()
            if self._signals and not self._yielding:
                self._yielding = True
                asyncio.create_task(self._yield())  # noqa: RUF006  the SDK's event loop keeps its tasks
            if not self._awake:
                continue
            self._awake = False
            now = workflow.time()
            self._buffer.expire(now)
            self._log_unreported()
            if self._cancelled:
                self._give_up(now)
            ending = self._should_end()
            if self._cancel_requested and self._buffer.idle and self._can_end():
                raise asyncio.CancelledError
            if ending and self._can_end():
                self._continue_as_new()
            self._start_flushes(now, ending)
            self._start_delivery()
            self._set_timer(now)

    # Ways in. Nothing here awaits.

    @workflow.update(name=UPDATE_SUBMIT, description=details.SUBMIT_SAYS)
    def submit(self, requests: RawValue) -> SubmitResult:
        """Accepts requests from a gateway, and says which were not."""
        self._updates += 1
        self._read_signals()  # what came first is served first
        now = workflow.time()
        refused: list[Refusal] = []
        for position, wire in enumerate(decode_submission(requests, _decode)):
            try:
                submission = read_submission(wire)
                self._buffer.accept(submission, now)
            except InvalidRequest as err:
                # The ledger decides which of two contents an id belongs to, once the other one is settled: it may hold
                # this one already, or refuse the other.
                code = RejectCode.OVERLOADED if err.code == RejectCode.ID_REUSED else err.code
                refused.append(Refusal(position, code, str(err)))
            except BufferFull as err:
                self._buffer.counts.refused += submission.requests
                refused.append(Refusal(position, RejectCode.OVERLOADED, str(err)))
        self._wake_if_needed(now)
        policy = self._buffer.policy
        return SubmitResult(refused, gather_seconds(policy), policy.max_batch_size, policy.max_batch_records)

    @submit.validator
    def _may_submit(self, requests: RawValue) -> None:
        """Rejects the gateway as busy, without an event in history, while nothing can be accepted."""
        buffer = self._buffer
        if not self._policy_known:
            raise busy("the batcher is starting")
        if self._cancelled:
            raise busy(CANCELLED)
        if buffer.draining:
            raise busy("the batcher is draining: it takes no more requests")
        if buffer.pending >= buffer.policy.max_pending or buffer.pending_bytes >= buffer.policy.max_pending_bytes:
            raise busy("the batcher's buffer is full")
        if self._should_end() and buffer.pending_weight >= CARRY_LIMIT_BYTES // 2:
            raise busy("the batcher is about to continue as new and carries enough", soon=True)

    # One handler for every signal, which keeps it undecoded: ten thousand of them may come in one activation, after an
    # hour without a worker, and the SDK fails a task whose activation takes two seconds. `_read_signals` reads them.
    @workflow.signal(dynamic=True, description=details.SIGNALS_SAY)
    def _receive(self, name: str, args: Sequence[RawValue]) -> None:
        self._signals_received += 1
        self._signals.receive(name, args, workflow.time())

    @workflow.update(name=UPDATE_CONTROL, description=details.CONTROL_SAYS)
    def control(self, wire: Any) -> None:
        """Carries out what an operator asks, or a worker that started announces."""
        self._updates += 1
        self._read_signals()
        control = read_control(wire)
        buffer = self._buffer
        if control.policy is not None and not (control.announced and self._operator_policy):
            buffer.policy = BatchPolicy.from_wire(control.policy)
            self._operator_policy = not control.announced
        if control.flush_task_queue is not None:
            self._flush_task_queue = control.flush_task_queue
        if control.pause is not None:
            buffer.paused = control.pause
        if control.drain is not None:
            buffer.draining = control.drain
        if control.adopt_ledger is not None:  # this one and no other: a worker with the earlier one is refused
            self._ledger, self._ledger_asked = control.adopt_ledger, True
        if control.routed_at is not None:
            self._upgrade.tell(control.routed_at)
        if control.flush or control.drain:
            buffer.flush_now(workflow.time())
        self._awake = True

    @control.validator
    def _may_control(self, wire: Any) -> None:
        if read_control(wire).announced and self._cancelled:
            raise busy(CANCELLED)  # or no worker would start the shard again

    @workflow.query(name=QUERY_STATS, description=details.STATS_SAYS)
    def stats(self) -> BatcherStats:
        """The figures of this shard."""
        info = workflow.info()
        return replace(
            buffer_stats(self._start, self._buffer, workflow.time()),
            run_id=info.run_id,
            unread=len(self._signals),
            malformed=self._signals.malformed,
            run_signals=self._signals_received,
            run_updates=self._updates,
            run_events=info.get_current_history_length(),
            continue_as_new=self._cycles,
            idle_cycles=self._idle_cycles,
            suggested=info.is_continue_as_new_suggested(),
            draining=self._buffer.draining or self._cancelled,
            ledger=self._ledger,
            flush_task_queue=self._flush_task_queue,
        )

    def _details(self) -> str:
        now, began = workflow.time(), workflow.info().start_time.timestamp()
        flags = {"starting": not self._policy_known, "cancelled": self._cancelled}
        return details.shard_details(self.stats(), self._buffer, now=now, run_began=began, **flags)

    @workflow.query(name=QUERY_BATCH, description=details.BATCH_SAYS)
    def batch(self, batch_id: str) -> list[JsonObject]:
        """The content of a batch in flight, for its flush if it is a retry. Empty if it is not in flight."""
        batch = self._buffer.batch_in_flight(batch_id)
        return [submission.to_wire() for submission in batch.submissions] if batch is not None else []

    # Signals

    def _read_signals(self) -> None:
        """Reads the signals that came, in order; of a flood a portion, the rest in a later task (`_yield`)."""
        if not self._policy_known or not self._signals:
            return
        now = workflow.time()
        if self._signals.read(now, _decode, closed=self._closed_to_signals()):
            self._awake = True
        problems, more = self._signals.take_problems()
        for problem in problems:
            workflow.logger.warning("A signal was ignored: %s", problem, extra=self._about())
        if more:
            workflow.logger.warning("%d more signals, or requests in them, were ignored", more, extra=self._about())
        self._log_unreported()
        self._wake_if_needed(now)

    def _closed_to_signals(self) -> str | None:
        if self._cancelled:
            return CANCELLED
        if workflow.info().get_current_history_size() > MAX_HISTORY_BYTES and self._should_end():
            return "the batcher cannot continue as new until it has written some of what it holds"
        return None

    async def _yield(self) -> None:
        await workflow.sleep(0.001, summary=details.NEXT_PART)
        self._yielding = False

    def _log_unreported(self) -> None:
        """Logs requests that are not written and have no reply address: some by id, the others by number."""
        unreported, self._buffer.unreported = self._buffer.unreported, {}
        if unreported:
            some = [f"{request_id!r} ({why})" for request_id, why in unreported.items()]
            extra = self._about(list(unreported))
            workflow.logger.warning("Not written, and without a reply address: %s", _first(some), extra=extra)

    def _wake_if_needed(self, now: float) -> None:
        """Wakes the loop if a message changed anything it acts on; most only join a batch that waits."""
        at = self._buffer.wake_at()
        sooner = at is not None and (self._timer is None or at < self._timer_at)
        if sooner or self._buffer.outbox or self._should_end():
            self._awake = True

    # The loop's parts

    async def _ask_for_policy(self) -> None:
        """A gateway may start a shard without knowing its limits; the batcher's own worker does."""
        # Not a local activity: if two batchers share a queue, another worker than this task's may be the right one.
        wire = await workflow.execute_activity(
            ACTIVITY_POLICY,
            self._start.batcher,
            result_type=dict[str, Any],
            start_to_close_timeout=timedelta(seconds=10),
            retry_policy=RetryPolicy(maximum_interval=timedelta(seconds=5)),
            summary="the policy that its worker has",
        )
        if not self._operator_policy and self._start.policy is None:
            self._buffer.policy = BatchPolicy.from_wire(wire["policy"])
        self._flush_task_queue = wire["flush_task_queue"]
        self._policy_known = True
        self._read_signals()

    def _start_flushes(self, now: float, ending: bool) -> None:
        # While ending nothing new starts, so that the run can end; except when it holds more than it may carry.
        if ending and (self._buffer.batches_in_flight or not self._buffer.has_to_flush_to_end):
            return
        force = ending or self._is_runaway()
        while self._has_room_in_task():
            batch = self._next_batch(now, force=force)
            if batch is None:
                return
            self._task_bytes += 0 if batch.tried else batch.size
            asyncio.create_task(self._flush(batch))  # noqa: RUF006  the SDK's event loop keeps its tasks
        at = self._buffer.wake_at()
        if at is not None and at <= now:
            asyncio.create_task(self._continue_in_next_task())  # noqa: RUF006  the SDK's event loop keeps its tasks

    def _has_room_in_task(self) -> bool:
        events = workflow.info().get_current_history_length()
        if events != self._task_began_at:
            self._task_began_at, self._task_bytes = events, 0
        return self._task_bytes < MAX_TASK_BYTES

    async def _continue_in_next_task(self) -> None:
        await workflow.sleep(0.001, summary=details.NEXT_PART)
        self._awake = True

    def _next_batch(self, now: float, *, force: bool) -> PendingBatch | None:
        if not self._ledger_asked and self._buffer.batches_in_flight:
            return None  # the first batch alone: two could go into two ledgers
        return self._buffer.next_batch(now, force=force)

    async def _flush(self, batch: PendingBatch) -> None:
        flush = FlushInput(
            batcher=self._start.batcher,
            shard=self._start.shard,
            batch_id=batch.id,
            trigger=batch.trigger,
            # The content enters history once. A batch that is retried for hours would otherwise fill it, until
            # the server ends the run.
            submissions=None if batch.tried else [submission.to_wire() for submission in batch.submissions],
            in_doubt=batch.in_doubt,
            attempt=batch.attempt,
            halved=bool(batch.part) or batch.apart,
            ledger=self._ledger,
            may_choose_ledger=not self._ledger_asked,
            waited=batch.waited(workflow.time()),
        )
        try:
            result = await workflow.execute_activity(
                ACTIVITY_FLUSH,
                _shallow(flush),
                task_queue=self._flush_task_queue or None,
                result_type=FlushResult,
                schedule_to_start_timeout=untaken_after(self._flush_task_queue),
                start_to_close_timeout=self._buffer.policy.flush_timeout,
                heartbeat_timeout=HEARTBEAT_TIMEOUT,
                # One attempt: between two the deadlines are looked at, and a newer policy applies.
                retry_policy=RetryPolicy(maximum_attempts=1),
                summary=f"{batch.id}: {batch.requests} requests, by {batch.trigger}",
            )
        except ActivityError as err:
            problem, in_doubt, ledger = flush_failure(err, self._flush_task_queue)
            if self._ledger is None and ledger is not None:
                if in_doubt:
                    self._ledger, self._ledger_asked = ledger, True
                else:
                    self._ledger_asked = False  # nothing was written there yet: the next batch goes alone, and decides
            self._buffer.fail(batch.id, workflow.time(), problem, in_doubt=in_doubt, backoff_factor=_backoff_factor())
            workflow.logger.warning("Batch %s is requeued: %s", batch.id, problem, extra=self._about(batch=batch))
        except Exception as err:
            # The content of the batch made scheduling fail. In flight it would stay forever and block the shard;
            # requeued, and never written, it can expire.
            problem = f"cannot be scheduled: {err}"
            self._buffer.fail(batch.id, workflow.time(), problem, in_doubt=False, backoff_factor=_backoff_factor())
            workflow.logger.exception("Batch %s cannot be scheduled", batch.id, extra=self._about(batch=batch))
        else:
            if self._ledger is None:
                self._ledger = result.ledger
            self._ledger_asked = True
            self._buffer.complete(batch.id, result, workflow.time(), backoff_factor=_backoff_factor())
        self._awake = True

    def _about(self, request_ids: Sequence[str] = (), *, batch: PendingBatch | None = None) -> dict[str, Any]:
        of_batch = {"batch_id": batch.id, "attempt": batch.attempt} if batch is not None else {}
        return about_requests(request_ids, batcher=self._start.batcher, shard=self._start.shard, **of_batch)

    def _start_delivery(self) -> None:
        deliveries = self._buffer.next_deliveries()
        if deliveries:
            asyncio.create_task(self._deliver(deliveries))  # noqa: RUF006  the SDK's event loop keeps its tasks

    async def _deliver(self, deliveries: Sequence[Delivery]) -> None:
        try:
            result = await workflow.execute_activity(
                ACTIVITY_CONFIRM,
                [delivery_to_wire(delivery) for delivery in deliveries],
                # What was returned is read from the sink, which the batcher's own workers may not have.
                task_queue=(self._flush_task_queue if any(one.unread for one in deliveries) else "") or None,
                result_type=DeliveryResult,
                start_to_close_timeout=timedelta(seconds=30),
                retry_policy=RetryPolicy(maximum_attempts=3),
                summary=f"{len(deliveries)} confirmations",
            )
        except ActivityError:
            result = DeliveryResult(list(range(len(deliveries))))
        self._buffer.delivered(result.failed, result.unreached)
        self._awake = True

    def _set_timer(self, now: float) -> None:
        """Keeps one timer for what is due next. One that fires early costs less than cancelling it for a later one."""
        at = self._buffer.timer_at(now)
        if at is None or (self._timer is not None and self._timer_at <= at):
            return
        if at <= now:
            return  # due, but it waits for an activity, whose end wakes the loop
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        # A millisecond more: rounding must not make the timer fire just before its time.
        self._timer = asyncio.create_task(self._fire_timer(min(at - now, LONGEST_TIMER) + 0.001))

    async def _fire_timer(self, seconds: float) -> None:
        await workflow.sleep(seconds, summary=details.NEXT_PROBE if self._buffer.breaker.open else details.NEXT_BATCH)
        self._timer = None
        self._awake = True

    # Cancellation: a request to end in order

    async def _despite_cancellation(self, wait: Callable[[], Awaitable[Any]]) -> None:
        """Waits, also if the shard is cancelled meanwhile: a cancelled shard drains and drops nothing."""
        while True:
            try:
                await wait()
            except asyncio.CancelledError:
                problem = "The shard was cancelled: it writes what it holds, then ends"
                workflow.logger.warning(problem, extra=self._about())
                self._cancelled = self._cancel_requested = self._buffer.ending = self._awake = True
                self._buffer.flush_now(workflow.time())
                continue
            return

    def _give_up(self, now: float) -> None:
        """Drops requests whose outcome cannot be known: they must not keep a cancelled shard from ending."""
        gone = self._buffer.give_up(now)
        if gone:
            workflow.logger.warning(
                "Past their deadlines, and with the sink down it is not known whether they are written: %s",
                _first(list(map(repr, gone))),
                extra=self._about(gone),
            )

    async def _repeat_cancellation(self) -> None:
        await workflow.execute_activity(
            ACTIVITY_CANCEL,
            start_to_close_timeout=timedelta(seconds=10),
            summary="the run before this one was cancelled",
        )

    # Continue-as-new

    def _should_end(self) -> bool:
        """Whether this run should end."""
        due = (
            workflow.info().is_continue_as_new_suggested()
            or self._signals_received >= MAX_SIGNALS_PER_RUN
            or self._updates >= MAX_UPDATES_PER_RUN
            or self._upgrade.due(elsewhere=workflow.info().is_target_worker_deployment_version_changed())
        )
        return due and not self._is_runaway()

    def _is_runaway(self) -> bool:
        """Whether run after run ends without settling anything: then this one stays until it has."""
        return self._idle_cycles >= MAX_IDLE_CYCLES and self._buffer.counts.settled == self._settled_before

    def _can_end(self) -> bool:
        return (
            not self._signals
            and self._buffer.batches_in_flight == 0
            and self._buffer.deliveries_in_flight == 0
            and self._buffer.carry_bytes <= CARRY_LIMIT_BYTES
            and workflow.all_handlers_finished()
        )

    def _continue_as_new(self) -> None:
        buffer = self._buffer
        progress = (
            buffer.counts.settled > self._settled_before
            # A probe of a sink that is down is progress too, as is a retry: pauses bound how often such runs end. A run
            # that stayed instead would add one batch after the other to its history, until the server ends it.
            or buffer.counts.attempts_that_failed > self._failures_before
            or (buffer.idle and self._signals_received + self._updates > 0)
        )
        idle_cycles = 0 if progress else self._idle_cycles + 1
        if idle_cycles >= MAX_IDLE_CYCLES:
            workflow.logger.warning(
                "%d runs in a row settled nothing with %d requests waiting: the next one stays until it has flushed",
                idle_cycles,
                buffer.pending,
            )
        state = BatcherState(
            buffer=buffer.carry(),
            epoch=self._epoch,
            cycles=self._cycles + 1,
            idle_cycles=idle_cycles,
            malformed=self._signals.malformed,
            operator_policy=self._operator_policy,
            cancelled=self._cancelled,
            ledger=self._ledger,
            ledger_asked=self._ledger_asked,
            upgrade_tried=self._upgrade.carry(elsewhere=workflow.info().is_target_worker_deployment_version_changed()),
            flush_task_queue=self._flush_task_queue,
        )
        next_run = BatcherStart(self._start.batcher, self._start.shard, state=state.to_wire())
        workflow.continue_as_new(_shallow(next_run), initial_versioning_behavior=initial_behavior(workflow.info()))


def gather_seconds(policy: BatchPolicy) -> float:
    """How long a gateway may gather requests before it submits them."""
    return min(MAX_GATHER, policy.linger.total_seconds() / 10)


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _decode(value: RawValue) -> Any:
    return decode_payload(value.payload, workflow.payload_converter())


def _epoch(carried: str | None) -> str:
    """What tells this shard's batch ids from those of every other shard of its name: none is ever repeated.

    It is the first run's, over continue-as-new as well; a shard that was terminated and is started again has another
    first run. One that is reset forms other batches under the numbers that it had given before, so it takes the id of
    the new run. The end of a run id is random, whichever version of UUID it is; its beginning may be the time.
    """
    info = workflow.info()
    if info.run_id != info.original_execution_run_id:
        return info.run_id[-8:]
    return carried or info.first_execution_run_id[-8:]


def _shallow(message: FlushInput | BatcherStart) -> JsonObject:
    """A message as the converter writes it, without the deep copy that the converter makes of a dataclass."""
    return vars(message)


def _backoff_factor() -> float:
    """How much longer than usual to wait between two attempts in a run that holds too much to continue as new.

    Each attempt costs eight events of the 51,200 after which the server ends a run. Past its warning the pauses grow
    with the history: at the defaults an outage may then last more than five days, instead of two.
    """
    return max(1.0, workflow.info().get_current_history_length() / HISTORY_WARNING)
