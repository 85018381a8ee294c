"""Reply addresses are read, and one that comes twice counts once."""

from __future__ import annotations

from temporal_batching.contract import ReplyTo
from temporal_batching.wire.addresses import MAX_REPLIES, read_replies


def test_replies_may_be_missing_one_or_many_and_one_address_counts_once() -> None:
    one = {"workflow_id": "w"}
    assert read_replies(None) == []
    assert read_replies(one) == [ReplyTo("w")]
    replies = read_replies([one, {**one, "run_id": None}, {"activity_id": "a"}])
    assert replies == [ReplyTo("w"), ReplyTo(activity_id="a")]
    assert [reply.to_wire() for reply in replies] == [one, {"activity_id": "a"}]
    assert len(read_replies([{"activity_id": str(n)} for n in range(MAX_REPLIES)])) == MAX_REPLIES
