"""The port to the database: what a sink is given, and what it must answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import overload

from temporal_batching.contract import Outcome, OutcomeKind, Trigger, WriteRequest
from temporal_batching.sinks.dead_letters import DeadLetter


class Batch(Sequence[WriteRequest]):
    """The requests of one flush, in the order they arrived.

    Attributes:
        id: Names the batch, and no other one ever, e.g. ``main-0.3f9a2c71/17``. A batch that could not be written
            keeps its id when it is retried (without the requests that expired meanwhile), so a sink that stores the
            id can tell its own earlier attempt from another batch.
        shard: The batcher shard it comes from.
        trigger: What made it start.
        attempt: Earlier attempts at this batch; 0 for the first.
        fence_as: For `Sink.fence`: what the callers of requests that are not there are told, `expired` or `rejected`.
    """

    __slots__ = ("_requests", "attempt", "fence_as", "id", "shard", "trigger")

    def __init__(
        self,
        requests: Sequence[WriteRequest],
        *,
        id: str = "",
        shard: int = 0,
        trigger: Trigger = Trigger.COUNT,
        attempt: int = 0,
        fence_as: OutcomeKind = OutcomeKind.EXPIRED,
    ) -> None:
        self._requests = tuple(requests)
        self.id = id
        self.shard = shard
        self.trigger = trigger
        self.attempt = attempt
        self.fence_as = fence_as

    @property
    def requests(self) -> Sequence[WriteRequest]:
        """The requests themselves, as iteration gives them."""
        return self._requests

    @overload
    def __getitem__(self, index: int) -> WriteRequest: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[WriteRequest]: ...
    def __getitem__(self, index: int | slice) -> WriteRequest | Sequence[WriteRequest]:
        return self._requests[index]

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[WriteRequest]:
        return iter(self._requests)


class Sink(ABC):
    """Where requests go. Subclass it for a destination of your own; only `write` is required.

    One sink object serves a worker process for its lifetime. Calls may overlap when the batcher has several shards
    or more than one flush in flight.

    Example:
        ```python
        from collections.abc import Sequence

        from temporal_batching import Batch, Outcome, Sink, SinkUnavailable

        class FileSink(Sink):
            async def write(self, batch: Batch) -> Sequence[Outcome]:
                try:
                    with open("writes.log", "a", encoding="utf-8") as file:
                        for request in batch:
                            print(request.request_id, request.records, file=file)
                except OSError as err:
                    raise SinkUnavailable(str(err)) from None
                return [Outcome.written() for _ in batch]
        ```
    """

    identity: str | None = None
    """Names the store of request ids that this sink writes to, once it is open; None if it has none. A shard that has
    been written to one store does not go on in another until an operator says so."""

    async def open(self) -> None:  # noqa: B027  optional
        """Called once before the worker polls. Raise `SinkConfigurationError` if the set-up cannot work."""

    async def close(self) -> None:  # noqa: B027  optional
        """Called once after the worker has finished its activities."""

    @abstractmethod
    async def write(self, batch: Batch) -> Sequence[Outcome]:
        """Commits the batch and answers for each request, in the batch's order.

        The promise of exactly-once rests here: a request id that was written before is answered `duplicate` and not
        applied again, but for an id that an earlier attempt at this same ``batch.id`` wrote, which is answered
        `written`. A request that cannot be written is answered `rejected` and leaves nothing behind; it must not
        keep the others from being written. The records of one request are applied together or not at all.

        A request that cannot be written now, and may be later, is answered `Outcome.retry`: it alone is retried, under
        the same batch id, until its deadline. Its key is blocked meanwhile. So later requests of this key in the batch
        must be answered so as well, for the order of the key. If every request of a batch is answered so, the breaker
        opens.

        An exception other than `SinkUnavailable` is no verdict on a request: it may be written all the same. The batch
        is halved until the request is found that the sink fails on. That one is retried, in doubt, and asked about by
        `fence` at its deadline; so is one whose answer is no `Outcome`.

        Raises:
            SinkUnavailable: The sink cannot take writes now. The whole batch is tried again later. With
                ``in_doubt=False`` nothing of it is committed.
        """

    async def fence(self, batch: Batch) -> Sequence[Outcome]:
        """Answers for requests past their deadline of which an earlier attempt at ``batch.id`` may have committed.

        Each is answered `written` if it is there; otherwise as ``batch.fence_as`` says, and then the sink has made sure
        that an attempt still under way cannot write it any more, and that this and every later attempt at the batch are
        answered the same. So `expired` is asked of what is past its deadline, and `rejected` of what `write` has
        rejected or its caller has withdrawn. A sink without a method of its own cannot say: a request in doubt then
        gets no outcome at its deadline, and its caller `WriteNotConfirmed`.

        Raises:
            SinkUnavailable: The sink cannot tell now. It is asked again later.
        """
        return [Outcome.expired() for _ in batch]

    async def keep_dead_letters(self, letters: Sequence[DeadLetter]) -> bool:
        """Keeps rejected requests that nobody waits for, so that people can look at them and send them again.

        Called before the batch counts as settled, and again with every further attempt at it: a letter's ``id`` says
        whether it is kept already.

        Returns:
            Whether it keeps dead letters. The default does not; then a line in the log with their ids is all there is.

        Raises:
            SinkUnavailable: The sink cannot keep them now. The whole batch is tried again later.
        """
        return False
