"""What cannot be written now waits by itself: its key waits with it, and nothing else."""

from __future__ import annotations

import math

import pytest

from temporal_batching.batcher.batches import OVERLAP_AFTER, PendingBatch
from temporal_batching.batcher.buffer import PROBES_EACH, Buffer
from temporal_batching.contract import FlushResult, Requeued, Withdrawal
from tests.support.buffers import NOW, buffer, caller, carried, confirmations, ids, parcel, restored, submission, take


def requeue(buf: Buffer, batch: PendingBatch, *positions: int, now: float = NOW, in_doubt: bool = False) -> None:
    """Ends a flush: these submissions are to be retried, the others are written."""
    written = len(batch.submissions) - len(positions)
    requeued = [Requeued(position, "locked", in_doubt) for position in positions]
    buf.complete(batch.id, FlushResult({"written": written}, requeued=requeued, stalled=not written), now)


def fill(buf: Buffer, *names: str, key: str = "", now: float = NOW, expires_at: float = NOW + 10_000) -> None:
    for name in names:
        buf.accept(submission(name, key=key, expires_at=expires_at), now)


def test_a_retry_keeps_its_batch_id_and_has_pauses_of_its_own() -> None:
    buf = buffer(linger=0, retry_initial=1, retry_max=4)
    fill(buf, "a", "b", "c")
    first = take(buf, NOW)
    requeue(buf, first, 1)
    now = NOW
    for attempt, pause in enumerate((1, 2, 4, 4), start=1):
        assert (buf.requeued, buf.pending, buf.breaker.open) == (1, 1, False)
        assert buf.wake_at() == now + pause
        assert buf.next_batch(now + pause - 0.1) is None
        now += pause
        batch = take(buf, now)
        assert (batch.id, ids(batch), batch.attempt, batch.tried) == ("main-0/1", ["b"], attempt, True)
        requeue(buf, batch, 0, now=now)
    assert (buf.counts.retries, buf.counts.batches, dict(buf.counts.outcomes)) == (5, 1, {"written": 2})


def test_only_the_key_of_what_waits_is_blocked_and_keeps_its_order() -> None:
    buf = buffer(linger=0)
    fill(buf, "a1", key="a")
    requeue(buf, take(buf, NOW), 0)
    fill(buf, "a2", key="a")
    fill(buf, "b1", key="b")
    fill(buf, "free")
    fill(buf, "a3", key="a")
    other = take(buf, NOW)
    assert ids(other) == ["b1", "free"]
    buf.complete(other.id, FlushResult({"written": 2}), NOW)
    assert buf.next_batch(NOW) is None
    again = take(buf, NOW + 1)
    buf.complete(again.id, FlushResult({"written": 1}), NOW + 1)
    assert ids(take(buf, NOW + 1)) == ["a2", "a3"]


def test_what_is_behind_a_blocked_parcel_waits_for_its_keys_too() -> None:
    buf = buffer(linger=0)
    fill(buf, "a", key="a")
    requeue(buf, take(buf, NOW), 0)
    buf.accept(parcel("p", "p1", "p2", keys=["a", "b"]), NOW)
    buf.accept(parcel("q", "q1", keys=["a"]).packed(), NOW)
    fill(buf, "b", key="b")
    fill(buf, "c", key="c")
    assert ids(take(buf, NOW)) == ["c"]


def test_batches_that_overlap_keep_the_order_of_a_key() -> None:
    buf = buffer(linger=0, max_in_flight=4, max_batch_size=2)
    fill(buf, "a1", "a2", "a3", key="a")
    fill(buf, "b1", key="b")
    assert [ids(take(buf, NOW)), ids(take(buf, NOW + 1))] == [["a1", "a2"], ["b1"]]
    assert buf.next_batch(NOW + 1) is None
    assert buf.wake_at() == NOW + 10_000


def test_what_is_blocked_makes_no_batch_due() -> None:
    buf = buffer(linger=20, max_batch_size=2)
    fill(buf, "a1", "a2", key="a")
    requeue(buf, take(buf, NOW), 0, 1)
    assert buf.breaker.open
    fill(buf, "a3", "a4", "a5", key="a", now=NOW + 0.5)
    fill(buf, "b", key="b", now=NOW + 0.5)
    batch = take(buf, NOW + 1)
    assert ids(batch) == ["a1", "a2"], "only one request is ready: too few for a batch"
    buf.complete(batch.id, FlushResult({"written": 2}), NOW + 1)
    assert ids(take(buf, NOW + 1)) == ["a3", "a4"]


# The breaker


def test_a_request_by_itself_does_not_open_the_breaker_however_often_it_is_retried() -> None:
    buf = buffer(linger=0)
    fill(buf, "a")
    requeue(buf, take(buf, NOW), 0)
    fill(buf, "b")
    requeue(buf, take(buf, NOW), 0)
    assert not buf.breaker.open
    requeue(buf, take(buf, NOW + 1), 0, now=NOW + 1)
    assert not buf.breaker.open


def test_if_nothing_of_a_batch_gets_through_the_breaker_opens_and_another_batch_is_the_probe() -> None:
    """Two requests that fill a batch and never get through would be probed without end."""
    buf = buffer(linger=0, max_batch_size=2)
    fill(buf, "bad1", "bad2", "a", "b")
    requeue(buf, take(buf, NOW), 0, 1)
    assert (buf.breaker.open, buf.breaker.error, buf.next_batch(NOW + 0.9)) == (True, "locked", None)
    probe = take(buf, NOW + 1)
    assert ids(probe) == ["a", "b"]
    buf.complete(probe.id, FlushResult({"written": 2}), NOW + 1)
    assert (buf.breaker.open, buf.breaker.error, buf.requeued) == (False, None, 2)


def test_a_batch_of_which_something_gets_through_leaves_the_breaker_closed() -> None:
    buf = buffer(linger=0)
    fill(buf, "a", "b", "c")
    requeue(buf, take(buf, NOW), 0, 1)
    assert not buf.breaker.open


def test_in_an_outage_few_batches_are_probed_in_turn() -> None:
    buf = buffer(linger=0, max_batch_size=1, retry_initial=1, retry_max=1)
    fill(buf, *(f"r{n}" for n in range(10)), expires_at=NOW + 100_000)
    now, probed = NOW, []
    for _ in range(60):
        batch = take(buf, now)
        probed += ids(batch)
        buf.fail(batch.id, now, "down", in_doubt=True)
        now += 1
    assert probed[: PROBES_EACH + 1] == ["r0"] * PROBES_EACH + ["r1"]
    assert set(probed) == {f"r{n}" for n in range(5)}, "each enters history once, and few do"
    buf.complete(take(buf, now).id, FlushResult({"written": 1}), now)
    assert not buf.breaker.open
    written = []
    for _ in range(9):
        batch = take(buf, now)
        written += ids(batch)
        buf.complete(batch.id, FlushResult({"written": 1}), now)
    assert buf.idle


def test_one_request_that_takes_the_sink_down_is_isolated_and_its_neighbours_get_through() -> None:
    buf = buffer(linger=0, max_batch_size=4, retry_initial=1, retry_max=8)
    fill(buf, "a", "b", "bad", "c", expires_at=NOW + 100_000)
    now, written, attempts = NOW, set[str](), 0
    fill(buf, *(f"r{n}" for n in range(8)), expires_at=NOW + 100_000)
    for _ in range(60):
        batch = buf.next_batch(now)
        if batch is None:
            now = buf.wake_at() or now
            continue
        attempts += 1
        if "bad" in ids(batch):
            buf.fail(batch.id, now, "crashed", in_doubt=True)
        else:
            written |= set(ids(batch))
            buf.complete(batch.id, FlushResult({"written": len(batch.submissions)}), now)
    assert written == {"a", "b", "c", *(f"r{n}" for n in range(8))}
    assert (buf.pending, now < NOW + 500) == (1, True)
    fill(buf, "later", now=now)
    assert ids(take(buf, now + 8)) == ["later"], "no request waits for it longer than one pause"


def test_halves_that_share_a_key_keep_its_order() -> None:
    buf = buffer(linger=0, max_batch_size=2, retry_initial=1, retry_max=1)
    fill(buf, "k1", "k2", key="k")
    fill(buf, "a", "b")
    now = NOW
    for _ in range(PROBES_EACH):
        batch = take(buf, now)
        buf.fail(batch.id, now, "crashed", in_doubt=False)
        now += 1
    other = take(buf, now)
    assert ids(other) == ["a", "b"]
    buf.complete(other.id, FlushResult({"written": 2}), now)
    buf.fail(take(buf, now).id, now, "crashed", in_doubt=False)
    for _ in range(3):
        now += 2
        batch = take(buf, now)
        assert ids(batch) == ["k1"]
        buf.complete(batch.id, FlushResult(requeued=[Requeued(0)], stalled=True), now)
    now += 2
    buf.complete(take(buf, now).id, FlushResult({"written": 1}), now)
    assert ids(take(buf, now + 2)) == ["k2"]


# How much retries may take


def test_retries_leave_half_of_the_time_to_others() -> None:
    buf = buffer(linger=0, retry_initial=1)
    fill(buf, "slow")
    requeue(buf, take(buf, NOW), 0)
    retry = take(buf, NOW + 1)
    fill(buf, "a", now=NOW + 2)
    requeue(buf, retry, 0, now=NOW + 6)
    assert ids(take(buf, NOW + 6)) == ["a"]
    assert buf.wake_at() == NOW + 10_000, "one in flight"
    buf.complete("main-0/2", FlushResult({"written": 1}), NOW + 6)
    assert buf.wake_at() == NOW + 11


def test_however_many_wait_for_a_retry_they_are_retried_one_at_a_time_with_pauses() -> None:
    buf = buffer(linger=0, retry_initial=1, retry_max=1, max_batch_size=1, max_in_flight=4)
    for n in range(6):
        fill(buf, f"r{n}")
        requeue(buf, take(buf, NOW), 0)
    now, starts = NOW, []
    for _ in range(12):
        now = buf.wake_at() or now
        starts.append(now)
        batch = take(buf, now)
        assert buf.next_batch(now) is None
        requeue(buf, batch, 0, now=now)
    assert starts == [NOW + 1 + n for n in range(12)]


def test_in_a_run_that_cannot_end_retries_are_as_rare_as_the_probes_of_an_outage() -> None:
    buf = buffer(linger=0, retry_initial=1, retry_max=30)
    fill(buf, "a", "b", "c", expires_at=NOW + 1e6)
    requeue(buf, take(buf, NOW), 0, 1)
    batch = take(buf, NOW + 1)
    buf.complete(batch.id, FlushResult(requeued=[Requeued(0)], stalled=True), NOW + 1, backoff_factor=2.0)
    assert buf.wake_at() == NOW + 61


# Deadlines


def test_a_retry_that_was_certainly_not_written_expires_at_its_deadline() -> None:
    buf = buffer(linger=0, retry_initial=10)
    fill(buf, "a", "b", expires_at=NOW + 5)
    requeue(buf, take(buf, NOW), 0)
    assert buf.wake_at() == NOW + 5
    buf.expire(NOW + 5)
    assert confirmations(buf) == [("a", "expired", None, ["w-a"])]
    assert buf.idle


def test_in_doubt_the_sink_is_asked_at_the_deadline_and_nobody_is_told_before() -> None:
    buf = buffer(linger=0, retry_initial=10)
    fill(buf, "a", "b", expires_at=NOW + 5)
    requeue(buf, take(buf, NOW), 0, in_doubt=True)
    buf.expire(NOW + 5)
    assert confirmations(buf) == []
    assert buf.wake_at() == NOW + 5
    batch = take(buf, NOW + 5)
    assert (ids(batch), batch.in_doubt, batch.submissions[0].to_wire()["in_doubt"]) == (["a"], True, True)
    buf.complete(batch.id, FlushResult(unknown=[0], stalled=True), NOW + 5)
    assert (buf.idle, buf.counts.unknown, buf.counts.settled) == (True, 1, 2)


def test_a_sink_that_cannot_tell_at_the_deadline_is_not_asked_without_pause() -> None:
    buf = buffer(linger=0, retry_initial=10)
    fill(buf, "a", expires_at=NOW + 5)
    requeue(buf, take(buf, NOW), 0, in_doubt=True)
    requeue(buf, take(buf, NOW + 5), 0, now=NOW + 5)
    assert buf.wake_at() == NOW + 25


# Everything else knows them


def test_retries_are_carried_over() -> None:
    buf = buffer(linger=0)
    fill(buf, "a", "b", "c", key="k")
    requeue(buf, take(buf, NOW), 1, 2, in_doubt=True)
    fill(buf, "d", key="k")
    state = carried(buf)
    later = restored(state)
    assert carried(later) == state
    assert later.wake_at() == buf.wake_at() == NOW + 1
    assert (later.requeued, later.pending, later.counts.retries, later.idle) == (2, 3, 2, False)
    batch = take(later, NOW + 1)
    assert (ids(batch), batch.id, batch.attempt, batch.in_doubt) == (["b", "c"], "main-0/1", 1, True)


@pytest.mark.parametrize("in_doubt", [True, False])
def test_a_paused_shard_retries_nothing(in_doubt: bool) -> None:
    buf = buffer(linger=0)
    fill(buf, "a", "b", expires_at=NOW + 60)
    requeue(buf, take(buf, NOW), 0, in_doubt=in_doubt)
    buf.paused = True
    assert buf.next_batch(NOW + 30) is None
    assert buf.wake_at() == (None if in_doubt else NOW + 60)


def test_only_callers_whose_answer_was_delivered_count_as_answered() -> None:
    buf = buffer(linger=0)
    fill(buf, "a", "b")
    requeue(buf, take(buf, NOW), 0)
    assert str(buf.accept(submission("a"), NOW)) == "attached"
    assert str(buf.accept(submission("b"), NOW)) == "answered"
    buf.complete(take(buf, NOW + 1).id, FlushResult(unknown=[0], stalled=True), NOW + 1)
    assert str(buf.accept(submission("a"), NOW)) == "new"


def test_that_others_got_through_meanwhile_is_known_to_the_next_run() -> None:
    buf = buffer(linger=0, max_batch_size=1, max_in_flight=2)
    buf.accept(submission("a"), NOW)
    buf.accept(submission("b"), NOW)
    first, second = take(buf, NOW), take(buf, NOW)
    buf.fail(first.id, NOW, "down", in_doubt=False)
    buf.complete(second.id, FlushResult(outcomes={"written": 1}), NOW)
    state = carried(buf)
    assert state["requeued"][0]["overtaken"] is True
    assert carried(restored(state)) == state


# Withdrawn while it waits


def test_what_waits_for_its_retry_can_be_withdrawn_if_no_attempt_can_have_written_it() -> None:
    buf = buffer(linger=0)
    fill(buf, "a", "b", key="k")
    requeue(buf, take(buf, NOW), 0)
    fill(buf, "c", key="k")
    assert buf.next_batch(NOW) is None
    assert buf.withdraw(Withdrawal("a", "w-a", "run"), NOW) is True
    assert confirmations(buf) == [("a", "rejected", "withdrawn", ["w-a"])]
    assert (buf.requeued, buf.pending, buf.counts.outcomes["rejected"]) == (0, 1, 1)
    assert ids(take(buf, NOW)) == ["c"], "its key is free again"


def test_what_waits_in_doubt_and_is_withdrawn_is_asked_about_and_not_written() -> None:
    buf = buffer(linger=0)
    fill(buf, "a", key="k")
    first = take(buf, NOW)
    deadline = first.submissions[0].expires_at  # an attempt under way may commit it until then
    requeue(buf, first, 0, in_doubt=True)
    assert buf.withdraw(Withdrawal("a", "w-a", "run"), NOW) is False, "it may be written"
    assert confirmations(buf) == []
    batch = take(buf, NOW + 10_000)
    (only,) = batch.submissions
    assert (batch.in_doubt, only.withdrawn, only.expires_at) == (True, True, deadline)


@pytest.mark.parametrize("way", ["retry", "outage"])
def test_a_withdrawal_during_an_attempt_counts_when_it_has_to_be_retried(way: str) -> None:
    buf = buffer(linger=0)
    fill(buf, "a", key="k")
    batch = take(buf, NOW)
    assert buf.withdraw(Withdrawal("a", "w-a", "run"), NOW) is False
    if way == "retry":
        requeue(buf, batch, 0)
    else:
        buf.fail(batch.id, NOW, "down", in_doubt=False)
    assert confirmations(buf) == [("a", "rejected", "withdrawn", ["w-a"])]
    assert (buf.pending, buf.requeued) == (0, 0)


def test_only_who_waits_for_the_retry_can_withdraw_it() -> None:
    buf = buffer(linger=0)
    buf.accept(submission("a", "v", "w"), NOW)
    requeue(buf, take(buf, NOW), 0)
    buf.accept(submission("a", "x"), NOW)  # waits for what becomes of the first
    assert buf.withdraw(Withdrawal("a", "nobody", "run"), NOW) is False
    assert buf.withdraw(Withdrawal("a", "v", "run"), NOW) is False
    assert buf.pending == 2
    assert buf.withdraw(Withdrawal("a", "w", "run"), NOW) is False, "another one waits for the same id"
    assert confirmations(buf) == [("a", "rejected", "withdrawn", ["w"])]
    (other,) = take(buf, NOW).submissions
    assert other.replies == [caller("x")]


# Batches that overlap


def test_while_a_batch_is_in_flight_one_that_is_not_full_waits_for_its_end_or_for_a_second() -> None:
    """Group commit stays group commit: batches that overlap are no smaller than those one after the other."""
    buf = buffer(linger=0, max_in_flight=4, max_batch_size=3)
    fill(buf, "a")
    first = take(buf, NOW)
    fill(buf, "b", now=NOW + 0.2)
    assert (buf.next_batch(NOW + 0.9), buf.wake_at()) == (None, NOW + OVERLAP_AFTER)
    fill(buf, "c", now=NOW + 0.3)
    buf.complete(first.id, FlushResult({"written": 1}), NOW + 0.4)
    second = take(buf, NOW + 0.4)
    assert ids(second) == ["b", "c"]
    fill(buf, "d", now=NOW + 0.5)
    assert ids(take(buf, NOW + 1.4)) == ["d"], "the second hangs"
    fill(buf, "e", "f", "g", now=NOW + 1.5)
    assert ids(take(buf, NOW + 1.5)) == ["e", "f", "g"], "full"


@pytest.mark.parametrize("why", ["flush", "deadline", "ending"])
def test_what_cannot_wait_starts_beside_a_batch_in_flight_at_once(why: str) -> None:
    buf = buffer(linger=0, max_in_flight=2, deadline_margin=2)
    fill(buf, "a")
    take(buf, NOW)
    fill(buf, "b", expires_at=NOW + 2.1 if why == "deadline" else NOW + 1_000)
    assert buf.next_batch(NOW) is None
    if why == "flush":
        buf.flush_now(NOW)
    assert ids(take(buf, NOW + 0.1, force=why == "ending")) == ["b"]


def test_a_batch_that_fails_while_others_get_through_waits_by_itself() -> None:
    """One that hangs on a lock until its time is up must not stop everybody."""
    buf = buffer(linger=0, max_batch_size=2, max_in_flight=2, retry_initial=1)
    fill(buf, "a", "b", key="hot")
    hanging = take(buf, NOW)
    fill(buf, "c", "d")
    other = take(buf, NOW + 1)
    buf.complete(other.id, FlushResult({"written": 2}), NOW + 2)
    buf.fail(hanging.id, NOW + 30, "timed out", in_doubt=True)
    assert (buf.breaker.open, buf.requeued) == (False, 2)
    fill(buf, "e", "f", now=NOW + 30)
    assert ids(take(buf, NOW + 30)) == ["e", "f"]
    again = take(buf, NOW + 61)
    assert (ids(again), again.id, again.in_doubt) == (["a", "b"], hanging.id, True)
    buf.fail(again.id, NOW + 62, "timed out", in_doubt=True)
    assert buf.breaker.open, "nothing got through meanwhile"


def test_batches_that_fail_in_one_outage_lengthen_its_pauses_once() -> None:
    buf = buffer(linger=0, max_batch_size=1, max_in_flight=4, retry_initial=1)
    fill(buf, "a", "b", "c", "d")
    flying = [take(buf, NOW) for _ in range(4)]
    for number, batch in enumerate(flying):
        buf.fail(batch.id, NOW + number, f"down {number}", in_doubt=True)
    assert (buf.breaker.failures, buf.breaker.retry_at, buf.breaker.error) == (1, NOW + 1, "down 0")
    probe = take(buf, NOW + 3)
    assert buf.next_batch(NOW + 3) is None, "one probe at a time"
    buf.fail(probe.id, NOW + 3, "still down", in_doubt=True)
    assert (buf.breaker.failures, buf.breaker.retry_at) == (2, NOW + 5)


def test_a_batch_that_hangs_keeps_no_probe_from_its_turn() -> None:
    buf = buffer(linger=0, max_batch_size=1, max_in_flight=3, retry_initial=1)
    fill(buf, "hangs", "b", "c")
    take(buf, NOW)
    buf.fail(take(buf, NOW).id, NOW, "down", in_doubt=False)
    probe = take(buf, NOW + 1)
    assert (ids(probe), buf.next_batch(NOW + 1)) == (["b"], None)
    buf.complete(probe.id, FlushResult({"written": 1}), NOW + 1)
    assert ids(take(buf, NOW + 1)) == ["c"]


def test_a_parcel_in_flight_blocks_each_of_its_keys_and_waits_for_each_of_them() -> None:
    buf = buffer(linger=0, max_in_flight=4, max_batch_size=2)
    fill(buf, "a1", "a2", key="a")
    first = take(buf, NOW)
    buf.accept(parcel("p", "p1", "p2", keys=["a", "b"]), NOW)
    fill(buf, "b1", "b2", key="b")
    fill(buf, "c1", "c2", key="c")
    assert ids(take(buf, NOW)) == ["c1", "c2"], "b waits behind the parcel"
    buf.complete(first.id, FlushResult({"written": 2}), NOW)
    second = take(buf, NOW)
    assert ids(second) == ["p"]
    fill(buf, "a3", "a4", key="a")
    assert buf.next_batch(NOW) is None, "both keys of the parcel are in flight"
    buf.complete(second.id, FlushResult({"written": 2}), NOW)
    assert [ids(take(buf, NOW)), ids(take(buf, NOW))] == [["b1", "b2"], ["a3", "a4"]]


# What more batches at a time cost


def trickle(max_in_flight: int, every: float, takes: float) -> tuple[int, int]:
    """Batches, and timers that a shard sets, of ten seconds of requests with a linger of zero."""
    buf = buffer(linger=0, max_in_flight=max_in_flight, deadline_margin=0)
    now, batches, timers, timer = NOW, 0, 0, math.inf
    ends: list[tuple[float, PendingBatch]] = []
    arrivals = [NOW + n * every for n in range(int(10 / every))]
    while arrivals or ends:
        now = min([*arrivals[:1], *(at for at, _ in ends), timer])
        if now == timer:
            timer = math.inf
        while ends and ends[0][0] <= now:
            batch = ends.pop(0)[1]
            buf.complete(batch.id, FlushResult({"written": batch.requests}), now)
        if arrivals and arrivals[0] <= now:
            buf.accept(submission(f"r{len(arrivals)}", expires_at=NOW + 10_000), arrivals.pop(0))
        while (started := buf.next_batch(now)) is not None:
            batches += 1
            ends.append((now + takes, started))
        wake = buf.wake_at()
        if wake is not None and now < wake < timer and wake < NOW + 10_000:  # as the workflow keeps its timer
            timer, timers = wake, timers + 1
    return batches, timers


@pytest.mark.parametrize(("every", "takes"), [(0.5, 0.05), (0.1, 0.05), (0.03, 0.08), (0.01, 0.5)])
def test_a_lightly_used_shard_makes_as_many_batches_as_with_one_at_a_time(every: float, takes: float) -> None:
    one, four = trickle(1, every, takes), trickle(4, every, takes)
    assert four[0] == one[0]
    assert four[1] <= one[1] + 11, "no more than a timer a second"
