"""Whether a batcher's worker is ready: it reaches Temporal and its sink, and polls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.client import Client
from temporalio.service import RPCError

from temporal_batching.errors import SinkError
from temporal_batching.health.queues import WORKFLOWS, pollers
from temporal_batching.sinks.base import Sink

LOOK_TIMEOUT = timedelta(seconds=3)
"""How long Temporal and the sink may take to answer. Give a probe more than that."""

FRESH = timedelta(seconds=2)
"""How long an answer counts, so that many probes cost Temporal and the database no more than one."""


@dataclass(frozen=True)
class Condition:
    """One part of being ready.

    Attributes:
        name: What.
        met: Whether it is met.
        detail: For people.
    """

    name: str
    met: bool
    detail: str

    def __str__(self) -> str:
        return f"{self.name}: {'ok' if self.met else 'not ready'}, {self.detail}"


class Look:
    """Looks at one condition: one look at a time, however many ask, and however long it takes.

    A look that does not end is not repeated: each would occupy another of the sink's threads.
    """

    def __init__(self, name: str, look: Callable[[], Awaitable[str]]) -> None:
        self._name = name
        self._look = look
        self._looking: asyncio.Task[Condition] | None = None
        self._ended = 0.0

    async def condition(self) -> Condition:
        """The condition as it is now, or was a moment ago."""
        looking = self._looking
        if looking is None or (looking.done() and time.monotonic() - self._ended > FRESH.total_seconds()):
            looking = self._looking = asyncio.create_task(self._ask())
        done, _ = await asyncio.wait([looking], timeout=LOOK_TIMEOUT.total_seconds())
        if not done:
            return Condition(self._name, False, f"no answer within {LOOK_TIMEOUT.total_seconds():g} s")
        return looking.result()

    async def _ask(self) -> Condition:
        try:
            return Condition(self._name, True, await self._look())
        except RPCError as err:
            return Condition(self._name, False, f"{err.status.name}: {err.message}")
        except SinkError as err:
            return Condition(self._name, False, str(err))
        except Exception as err:  # a sink of one's own; its text may quote anything
            return Condition(self._name, False, type(err).__name__)
        finally:
            self._ended = time.monotonic()

    def stop(self) -> None:
        """Ends a look that is under way."""
        if self._looking is not None:
            self._looking.cancel()


class Readiness:
    """Whether a worker is ready.

    Args:
        client: The worker's.
        task_queue: The worker's.
        sink: Where it writes to; None if it writes nowhere.
        kind: The tasks that it polls for.
        state: What the worker does: ``serving``, or why it does not poll.
    """

    def __init__(
        self,
        client: Client,
        *,
        task_queue: str,
        sink: Sink | None,
        state: Callable[[], str],
        kind: TaskQueueType.ValueType = WORKFLOWS,
    ) -> None:
        self._client = client
        self._task_queue = task_queue
        self._state = state
        self._polled = False
        self._kind = kind
        looks = [Look("temporal", self._temporal)]
        self._looks = [*looks, Look("sink", partial(self._reach, sink))] if sink is not None else looks

    async def conditions(self) -> list[Condition]:
        """All conditions; it is ready if each is met."""
        found = list(await asyncio.gather(*(look.condition() for look in self._looks)))
        return [*found, self._polling()]

    def stop(self) -> None:
        """Ends what is under way."""
        for look in self._looks:
            look.stop()

    async def _temporal(self) -> str:
        # It needs the namespace, and the right to it. Not whether this worker is among them: a queue has partitions,
        # and Temporal lists the pollers of one.
        self._polled = bool(await pollers(self._client, self._task_queue, self._kind, timeout=LOOK_TIMEOUT))
        return f"namespace '{self._client.namespace}' answers"

    async def _reach(self, sink: Sink) -> str:
        if self._state() == STARTING:
            raise SinkError("it is not open yet")
        await sink.check()
        return "it answers"

    def _polling(self) -> Condition:
        state = self._state()
        if state != SERVING:
            return Condition("polling", False, f"the worker is {state}")
        if not self._polled:
            return Condition("polling", False, f"Temporal has seen no poll of the task queue '{self._task_queue}' yet")
        return Condition("polling", True, f"task queue '{self._task_queue}'")


STARTING, SERVING, STOPPING = "starting", "serving", "stopping"
