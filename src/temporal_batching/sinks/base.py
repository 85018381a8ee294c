"""The port to the database: what a sink receives, and what it must answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import overload

from temporal_batching.contract import INSERT, Operation, Outcome, OutcomeKind, ReturnedRow, Trigger, WriteRequest
from temporal_batching.sinks.dead_letters import DeadLetter


class Batch(Sequence[WriteRequest]):
    """The requests of one flush, in the order they arrived.

    Attributes:
        id: The id of the batch, e.g. ``main-0.3f9a2c71/17``. It is unique over all batches. A batch that could not be
            written keeps its id when it is retried (without the requests that expired meanwhile), so a sink that
            stores the id can distinguish an earlier attempt at this batch from another batch.
        shard: The batcher shard that the batch comes from.
        trigger: Why the batch was started.
        attempt: The number of earlier attempts at this batch; 0 for the first.
        fence_as: For `Sink.fence`: the outcome of requests that are not written, `expired` or `rejected`.
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
        """The requests, in the order they arrived."""
        return self._requests

    def part(self, requests: Sequence[WriteRequest]) -> Batch:
        """Some requests of this batch, under its id: for a sink that writes it in several steps."""
        return Batch(
            requests,
            id=self.id,
            shard=self.shard,
            trigger=self.trigger,
            attempt=self.attempt,
            fence_as=self.fence_as,
        )

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
    """Where batches are written. Subclass it for a destination of your own; only `write` is required.

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
    """The identity of the store of request ids that this sink writes to, once the sink is open; None if there is none.
    A shard whose batches went to one store does not write to another store until an operator allows it."""

    takes_references: bool = False
    """Whether the sink replaces a `Returned` among the values of a record by the value of the earlier record. Otherwise
    a request with one is `rejected` before it comes to the sink."""

    operations: Collection[Operation] = (INSERT,)
    """The operations of records that the sink carries out. A request with another one is `rejected` before it comes to
    the sink."""

    write_timeout: timedelta | None = None
    """The longest that `write` takes by the sink's own limits; None if it has none. ``temporal-batching check`` warns
    unless it is below the batcher's ``flush_timeout``, at which a flush is given up and repeated."""

    async def open(self) -> None:  # noqa: B027  optional
        """Prepares the sink. The worker calls it once before it polls.

        Raises:
            SinkConfigurationError: The configuration cannot work.
            SinkUnavailable: The destination cannot be reached now.
        """

    async def close(self) -> None:  # noqa: B027  optional
        """Releases what the sink holds. The worker calls it once after it has finished its activities."""

    async def check(self) -> datetime | None:
        """Looks whether the destination can take writes now; called between `open` and `close`.

        A worker's ``/readyz`` and ``temporal-batching check`` call it, so it may be called every few seconds, also
        while batches are written. It must change nothing. By default nothing is looked at.

        Returns:
            What the destination's clock says, with a time zone; None if it has none of its own.

        Raises:
            SinkConfigurationError: The destination is there, and something has to be repaired: a missing privilege.
            SinkUnavailable: It cannot be reached now.
        """
        return None

    async def check_tables(self) -> Sequence[str]:
        """Looks whether what the sink is configured to write to can be written to; called between `open` and `close`.

        ``temporal-batching check`` calls it. It must change nothing. By default nothing is looked at.

        Returns:
            What has to be repaired, a text for each finding, without any value of a record: a missing privilege.

        Raises:
            SinkUnavailable: The destination cannot be reached now.
        """
        return ()

    @abstractmethod
    async def write(self, batch: Batch) -> Sequence[Outcome]:
        """Commits the batch and returns the outcome of each request, in the batch's order.

        Exactly-once depends on this method. A request id that was written before is answered `duplicate`, and its
        records are not applied again. The exception is an id that an earlier attempt at the same ``batch.id`` wrote:
        it is answered `written`. A request that cannot be written is answered `rejected`, leaves nothing behind, and
        must not keep the others from being written. The records of one request are applied together or not at all.

        A request that cannot be written now, and may be written later, is answered `Outcome.retry`. Only this request
        is retried, under the same batch id, until its deadline, and its key is blocked meanwhile. Later requests of
        this key in the batch must be answered `Outcome.retry` as well, to keep the order of the key. If every request
        of a batch is answered `Outcome.retry`, the breaker opens.

        An exception other than `SinkUnavailable` is no verdict on a request: the request may be written. The batch is
        halved until the request is found that the sink fails on. This request is retried, in doubt, and `fence`
        decides at its deadline. The same applies to a request whose answer is not an `Outcome`.

        ``Outcome.written(returned=[...])`` has one element for each record, and may have more columns than a record
        asks for: the caller gets those that it asked for, and none if it asked for none.

        Args:
            batch: The requests, in the order they arrived.

        Returns:
            One outcome for each request.

        Raises:
            SinkUnavailable: The sink cannot take writes now. The whole batch is retried later. With
                ``in_doubt=False`` nothing of it is committed.
        """

    async def fence(self, batch: Batch) -> Sequence[Outcome]:
        """Decides requests that an earlier attempt at ``batch.id`` may have committed, and that must not be written.

        A request that is written is answered `written`. Any other request gets the outcome ``batch.fence_as``, and the
        sink ensures that an attempt still under way cannot write it any more, and that this and every later attempt at
        the batch give the same outcome. ``batch.fence_as`` is `expired` for requests past their deadline, and
        `rejected` for requests that `write` has rejected or whose caller has withdrawn them.

        A sink that does not override this method cannot decide: a request in doubt then gets no outcome at its
        deadline, and its caller gets `WriteNotConfirmed`.

        Args:
            batch: The requests, under the id of the batch in which they were attempted.

        Returns:
            One outcome for each request, in the batch's order.

        Raises:
            SinkUnavailable: The sink cannot decide now. The call is repeated later.
        """
        return [Outcome.expired() for _ in batch]

    async def read_returned(self, request_ids: Sequence[str]) -> Mapping[str, Sequence[ReturnedRow | None]]:
        """What written requests returned (`Outcome.returned`), for confirmations that have to be sent again.

        A sink that does not override this method returns nothing: a caller whose confirmation did not arrive the first
        time then receives the outcome with ``returned=None``.

        Args:
            request_ids: Ids of requests that were answered `written` or `duplicate`.

        Returns:
            What each of them returned. Ids that are not known are left out.

        Raises:
            SinkUnavailable: It cannot be read now. It is tried again later.
        """
        return {}

    async def keep_dead_letters(self, letters: Sequence[DeadLetter]) -> bool:
        """Keeps rejected requests without a reply address, so that people can inspect and resubmit them.

        It is called before the batch counts as settled, and again with each further attempt at the batch. A letter
        whose ``id`` is kept already is not kept a second time.

        Args:
            letters: The rejected requests, with their outcomes.

        Returns:
            Whether the sink keeps dead letters. The default implementation does not; the worker then only logs their
            ids.

        Raises:
            SinkUnavailable: The sink cannot keep them now. The whole batch is retried later.
        """
        return False
