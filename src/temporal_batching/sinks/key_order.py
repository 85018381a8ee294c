"""`write_in_key_order`: for a destination that takes many items in one call and does not keep their order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from temporal_batching.contract import Outcome, OutcomeKind, WriteRequest
from temporal_batching.errors import SinkUnavailable
from temporal_batching.sinks.base import Batch


async def write_in_key_order(batch: Batch, write: Callable[[Batch], Awaitable[Sequence[Outcome]]]) -> list[Outcome]:
    """Writes a batch in as few calls as the order of its keys allows.

    No two requests of a call share a key. The first call has all requests without a key and the first one of each key,
    the second call the second one of each key, and so on. After a request that is answered `Outcome.retry` the later
    ones of its key are answered `retry` as well, without a call.

    Example:
        ```python
        from collections.abc import Sequence

        from temporal_batching import Batch, Outcome, Sink
        from temporal_batching.sinks import write_in_key_order

        class ApiSink(Sink):
            async def write(self, batch: Batch) -> Sequence[Outcome]:
                return await write_in_key_order(batch, self._call)

            async def _call(self, batch: Batch) -> Sequence[Outcome]:
                return [Outcome.written() for _ in batch]  # one call of the API
        ```

    Args:
        batch: The batch that the sink was given.
        write: Writes a part of it, and returns one outcome for each request.

    Returns:
        One outcome for each request, in the batch's order.

    Raises:
        SinkUnavailable: A call raised it. If an earlier call was answered, it is in doubt what is written.
    """
    outcomes: dict[int, Outcome] = {}
    left = list(range(len(batch)))
    stopped: set[str] = set()
    while left:
        call: dict[str, int] = {}
        later: list[int] = []
        for position in left:
            lane = _lane(batch[position])
            if lane in stopped:
                outcomes[position] = Outcome.retry("an earlier request of its key has to be retried")
            elif lane in call:
                later.append(position)
            else:
                call[lane] = position
        if call:
            try:
                answers = await write(batch.part([batch[position] for position in call.values()]))
            except SinkUnavailable as err:
                err.in_doubt |= bool(outcomes)
                raise
            outcomes |= dict(zip(call.values(), answers, strict=True))
            stopped |= {lane for lane, position in call.items() if outcomes[position].kind is OutcomeKind.RETRY}
        left = later
    return [outcomes[position] for position in range(len(batch))]


def _lane(request: WriteRequest) -> str:
    """What requests share that must not be in one call: a key, or an id."""
    return f"key {request.key}" if request.key else f"id {request.request_id}"
