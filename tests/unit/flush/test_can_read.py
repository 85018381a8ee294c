"""A worker reads returned values in no other ledger than the one that they were written to."""

from __future__ import annotations

import pytest

from temporal_batching import Confirmation, MemorySink, SinkUnavailable
from temporal_batching.contract import Delivery, OutcomeKind, ReplyTo
from temporal_batching.flush.returned import check_can_read


def unread(batch_id: str) -> Delivery:
    return Delivery(ReplyTo("w"), Confirmation("r", OutcomeKind.WRITTEN, batch_id), unread=True)


def test_its_own_batcher_is_read() -> None:
    check_can_read(MemorySink(), [unread("main-0/1")], batcher="main")
    check_can_read(None, [Delivery(ReplyTo("w"), Confirmation("r", OutcomeKind.WRITTEN, "other-0/1"))], batcher="main")


@pytest.mark.parametrize(("sink", "batch_id"), [(MemorySink(), "other-0/1"), (None, "main-0/1")])
def test_without_a_sink_of_the_batcher_nothing_is_read(sink: MemorySink | None, batch_id: str) -> None:
    with pytest.raises(SinkUnavailable, match="no sink of the batcher"):
        check_can_read(sink, [unread(batch_id)], batcher="main")
