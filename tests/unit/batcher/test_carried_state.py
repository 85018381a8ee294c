"""What an outsider sends cannot grow what a run carries over past its limit, nor the input of an activity.

- Policy, switches, counters, the breaker: a fixed number of fields; the sink's words are cut at 500 characters.
- Pending and requeued requests with their reply addresses: `max_pending_bytes`. Past 1 MiB a run flushes first.
- One request, with the addresses of all that wait for it: 1,500,000 bytes.
- Answers for accepted requests: as many as were accepted; each is delivered, or given up after five attempts.
- Answers for signals that were not accepted: `MAX_REFUSALS_BYTES`. Past it they are dropped, and counted.
- Withdrawals: 1,000, and 64 KiB.
- One delivery of answers: 200, and `PART_BYTES`; at least one, which is no larger than a request.

Not carried: signals that are not read yet (a run ends after it has read them; Temporal takes 10,000 a run), activities
that were answered lately (2,000), the log of what no caller receives.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from temporal_batching.batcher.limits import BufferFull
from temporal_batching.contract import FlushResult, JsonObject, RejectCode, Withdrawal
from temporal_batching.policy import CARRY_LIMIT_BYTES, MAX_REQUEST_BYTES
from temporal_batching.wire.deliveries import delivery_to_wire
from temporal_batching.wire.submission import Submission, read_submission
from tests.support.buffers import NOW, buffer, carried, submission, take

SNOWMAN = "\N{SNOWMAN}"
FAR = "\U0001f600"  # four bytes in UTF-8, twelve characters in Temporal's JSON


def weight(value: Any) -> int:
    return len(json.dumps(value, separators=(",", ":")))


def addressed(request_id: str, *workflows: str, text: str = "x", expires_at: float | None = None) -> Submission:
    wire: JsonObject = {
        "request_id": request_id,
        "records": [{"table": "t", "values": {"v": text}}],
        "expires_at": expires_at,
        "reply_to": [{"workflow_id": name} for name in workflows],
    }
    return read_submission(wire)


def test_answers_for_what_was_not_accepted_are_bounded_and_counted() -> None:
    buf = buffer()
    for n in range(5_000):
        buf.refuse(addressed(f"{SNOWMAN * 200}{n}", "w" * 900), RejectCode.OVERLOADED, "full")
        buf.accept(addressed(f"late-{n}", "w" * 900, expires_at=NOW - 1), NOW)
    assert weight(carried(buf)) < CARRY_LIMIT_BYTES // 2
    assert buf.undelivered > 9_000


def test_accepted_requests_are_told_whatever_was_refused_before() -> None:
    buf = buffer(linger=60)
    for n in range(5_000):
        buf.refuse(addressed(f"r-{n}", "w" * 900), RejectCode.OVERLOADED, "full")
    for n in range(3_000):
        buf.accept(submission(f"a-{n}", expires_at=NOW + 5), NOW)
    dropped, waiting = buf.undelivered, buf.outbox
    buf.expire(NOW + 10)
    assert (buf.undelivered, buf.outbox) == (dropped, waiting + 3_000)
    assert dropped > 0


def test_a_delivery_fits_an_activitys_input() -> None:
    buf = buffer(linger=60)
    for n in range(100):
        buf.accept(addressed(f"a-{n}", *(f"{i}{FAR * 500}" for i in range(10)), expires_at=NOW + 5), NOW)
    buf.expire(NOW + 10)
    rounds = 0
    while answers := buf.next_deliveries():
        assert weight([delivery_to_wire(answer) for answer in answers]) < MAX_REQUEST_BYTES
        buf.delivered([])
        rounds += 1
    assert (buf.outbox, rounds > 1) == (0, True)


def test_callers_that_join_a_request_do_not_make_it_too_large_to_flush() -> None:
    buf = buffer(linger=60, max_batch_bytes=1_400_000)
    assert buf.accept(addressed("a", "w", text="x" * 1_300_000), NOW)
    refused = 0
    for n in range(31):
        try:
            buf.accept(addressed("a", f"{n}{FAR * 990}", text="x" * 1_300_000), NOW)
        except BufferFull:
            refused += 1
    assert refused > 10
    assert weight([e.to_wire() for e in take(buf, NOW, force=True).submissions]) < 1_600_000


def test_callers_that_join_a_request_count_towards_the_buffer() -> None:
    buf = buffer(linger=60, max_batch_bytes=1024, max_pending_bytes=2048)
    buf.accept(addressed("a", "w"), NOW)
    with pytest.raises(BufferFull):
        buf.accept(addressed("a", *(f"{n}-{'w' * 200}" for n in range(20))), NOW)
    assert buf.pending_bytes <= 2048


def test_a_caller_that_joins_a_withdrawn_request_has_it_written() -> None:
    buf = buffer(linger=60)
    buf.withdraw(Withdrawal("a", "v", "run"), NOW)
    buf.accept(submission("a", "v", expires_at=NOW + 50), NOW)
    buf.accept(submission("a", "w", expires_at=NOW + 50), NOW)
    (only,) = take(buf, NOW, force=True).submissions
    assert (only.withdrawn, only.expires_at, len(only.replies)) == (False, NOW + 50, 2)


def test_of_a_cancelled_shard_nothing_waits_for_ever() -> None:
    buf = buffer(linger=60, retry_initial=1, retry_max=1)
    for n in range(5):
        buf.accept(submission(f"a-{n}", expires_at=NOW + 10), NOW)
    buf.accept(submission("b", expires_at=NOW + 100), NOW)
    batch = take(buf, NOW, force=True)
    buf.fail(batch.id, NOW + 1, "down", in_doubt=True)
    assert buf.give_up(NOW + 11) == [], "the sink may be back"
    batch = take(buf, NOW + 11)
    buf.fail(batch.id, NOW + 12, "down", in_doubt=True)
    assert buf.give_up(NOW + 12) == [f"a-{n}" for n in range(5)]
    assert (buf.pending, buf.counts.unknown) == (1, 5)
    batch = take(buf, NOW + 20)
    buf.complete(batch.id, FlushResult(outcomes={"written": 1}), NOW + 20)
    assert buf.idle
