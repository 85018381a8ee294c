"""Whatever is signalled to a shard, what it leaves behind is bounded, and the next run can carry it."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from temporalio.api.common.v1 import Payload
from temporalio.common import RawValue

from temporal_batching.batcher.outbox import MAX_REFUSALS_BYTES
from temporal_batching.batcher.signals import MAX_PROBLEMS, SignalQueue
from temporal_batching.batcher.withdrawals import MAX_REMEMBERED_BYTES
from temporal_batching.policy import CARRY_LIMIT_BYTES, MAX_REQUEST_BYTES
from temporal_batching.wire.deliveries import delivery_to_wire
from tests.support.buffers import NOW, buffer, carried, restored, with_many_keys

ROOM = 60_000
"""Bytes that may wait in the buffers here."""


def raw(value: Any) -> RawValue:
    return RawValue(Payload(data=json.dumps(value).encode()))


def decode(value: RawValue) -> Any:
    return json.loads(value.payload.data)


# Long ones are made by repeating: hypothesis would not draw them.
short = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
texts = st.builds(lambda text, times: text * times, short, st.sampled_from([1, 1, 30, 130, 3_000]))
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(short, inner, max_size=4),
    max_leaves=8,
)
addresses = st.fixed_dictionaries(
    {}, optional={"workflow_id": texts, "run_id": texts, "activity_id": texts, "from_run_id": texts}
)
requests = st.fixed_dictionaries(
    {"request_id": texts | junk},
    optional={
        "records": st.just([{"table": "t", "values": {"v": 1}}]) | junk,
        "key": texts | junk,
        "reply_to": addresses | st.lists(addresses, max_size=40) | junk,
        "expires_at": st.sampled_from([NOW - 1, NOW + 5, 1e300, None]) | junk,
        "resubmitted": st.booleans(),
    },
)
# Most junk is dropped. These are read, or refused with an answer to send.
names = st.sampled_from(["a", "b", "\N{SNOWMAN}" * 255, "\U0001f600" * 900])
nearly = st.fixed_dictionaries(
    {
        "request_id": st.sampled_from(["a", "b", "\U0001f600" * 255]),
        "records": st.sampled_from([[], [{"table": "t", "values": {"v": 1}}]]),
        "reply_to": st.lists(
            st.fixed_dictionaries({"workflow_id": names}, optional={"activity_id": names, "from_run_id": names}),
            min_size=1,
            max_size=4,
        ),
    },
    optional={"expires_at": st.just(NOW - 1), "resubmitted": st.booleans()},
)
arguments = st.lists(nearly, min_size=1, max_size=6).map(lambda many: [many]) | st.lists(
    st.lists(requests | junk, max_size=6) | requests | junk, max_size=4
)
signals = st.tuples(st.sampled_from(["add_write_request", "withdraw_write_request", "x" * 10_000]), arguments)


@given(st.lists(signals, max_size=25), st.sampled_from([1, 50]), st.none() | st.just("closed"))
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_junk_is_bounded_in_what_a_run_carries(
    sent: list[tuple[str, list[Any]]], times: int, closed: str | None
) -> None:
    buf = buffer(linger=60, max_pending_bytes=ROOM, max_batch_bytes=20_000)
    queue = SignalQueue(buf)
    for name, args in sent * times:
        queue.receive(name, [raw(arg) for arg in args], NOW)
    while queue:
        queue.read(NOW, decode, closed=closed)
    problems, more = queue.take_problems()
    assert len(problems) <= MAX_PROBLEMS
    assert len(problems) + more == queue.malformed
    assert buf.carry_bytes <= ROOM + MAX_REFUSALS_BYTES + MAX_REMEMBERED_BYTES < CARRY_LIMIT_BYTES // 2
    state = carried(buf)
    assert len(json.dumps(state, separators=(",", ":"))) <= 1.6 * buf.carry_bytes + 2_000
    assert carried(restored(state)) == state
    for _ in range(1_000):
        answers = buf.next_deliveries()
        assert len(json.dumps([delivery_to_wire(answer) for answer in answers])) < MAX_REQUEST_BYTES
        assert not any(answer.reply_to.by_activity for answer in answers)
        buf.delivered([])
        if not answers:
            break
    assert buf.outbox == 0


def test_a_signal_brings_the_content_of_its_parcel() -> None:
    """A reference is a gateway's, which has seen the content."""
    buf = buffer()
    signals = SignalQueue(buf)
    reference = with_many_keys("p")
    signals.receive("add_write_request", [raw({**reference.to_wire(), "reply_to": {"workflow_id": "w"}})], NOW)
    signals.read(NOW, decode)
    assert (signals.malformed, buf.pending) == (1, 0)
    (delivery,) = buf.next_deliveries()
    assert delivery.confirmation is not None
    assert (delivery.confirmation.request_id, delivery.confirmation.code) == ("p", "invalid")
