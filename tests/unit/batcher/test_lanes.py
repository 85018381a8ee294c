"""Who may go into the next batch, compared with the plain definition; and what that costs."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_batching.batcher.buffer import Buffer
from temporal_batching.batcher.keys import KeySet
from temporal_batching.batcher.lanes import Lanes, Turn
from temporal_batching.contract import FlushResult, Withdrawal
from temporal_batching.wire.submission import Submission, read_submission
from tests.support.buffers import NOW, buffer, ids, parcel, submission, take, with_many_keys

KEYS = ["a", "b", "c", "d"]


class Definition:
    """Ready is what has no earlier request of its id or of one of its keys that is in a batch or not ready."""

    def __init__(self) -> None:
        self.waiting: list[Submission] = []
        self.batches: list[Submission] = []

    def ready(self) -> list[str]:
        names = {one.id for one in self.batches}
        keys = KeySet(self.batches)
        ready: list[str] = []
        for one in self.waiting:
            if one.id in names or keys.block(one):
                keys.add(one)
            else:
                ready.append(one.id)
        return ready


class Both:
    """The lanes, and the definition, for the same events."""

    def __init__(self) -> None:
        self.lanes = Lanes()
        self.definition = Definition()
        self.turns: dict[str, Turn] = {}
        self.count = 0

    def comes(self, keys: list[str] | None, again: bool) -> None:
        """With some keys, or None for many."""
        self.count += 1
        held = [one.id for one in self.definition.batches if one.id not in self.turns]
        name = held[0] if again and held else f"r{self.count}"
        if keys is None:
            one = with_many_keys(name)
        elif len(keys) > 1:
            one = parcel(name, *(f"{name}/{k}" for k in keys), keys=keys)
        else:
            one = submission(name, key=keys[0] if keys else "")
        before = [turn for turn in self.turns.values() if turn.submission.id in self.ready()]
        self.turns[name] = self.lanes.add(one, id_in_batch=name in {o.id for o in self.definition.batches})
        self.definition.waiting.append(one)
        assert self.lanes.is_ready_after(self.turns[name], before) is (name in self.definition.ready())

    def goes(self, position: int) -> None:
        if self.definition.waiting:
            one = self.definition.waiting.pop(position % len(self.definition.waiting))
            self.lanes.remove(self.turns.pop(one.id))

    def is_taken(self, most: int) -> None:
        """The first that are ready become a batch: all leave, then they hold their keys."""
        names = set(self.definition.ready()[:most])
        taken = [one for one in self.definition.waiting if one.id in names]
        self.definition.waiting = [one for one in self.definition.waiting if one.id not in names]
        for one in taken:
            self.lanes.remove(self.turns.pop(one.id))
        for one in taken:
            self.lanes.close(one)
        self.definition.batches += taken

    def is_settled(self, position: int) -> None:
        if self.definition.batches:
            self.lanes.open(self.definition.batches.pop(position % len(self.definition.batches)))

    def ready(self) -> list[str]:
        return [turn.submission.id for turn in self.lanes.ready()]

    def check(self) -> None:
        assert self.ready() == self.definition.ready()
        closed = {key for one in self.definition.batches for key in one.keys}
        many = any(one.has_many_keys for one in self.definition.batches)
        assert closed <= self.lanes.closed if many else closed == self.lanes.closed
        keys = {key for one in [*self.definition.waiting, *self.definition.batches] for key in one.keys}
        assert self.lanes.footprint <= len(keys) + 2 * len(self.turns) + 65


EVENTS = st.one_of(
    st.tuples(st.just("comes"), st.lists(st.sampled_from(KEYS), max_size=3, unique=True) | st.none(), st.booleans()),
    st.tuples(st.sampled_from(["goes", "is_settled"]), st.integers(0, 20)),
    st.tuples(st.just("is_taken"), st.integers(1, 4)),
)


@given(events=st.lists(EVENTS, max_size=60))
def test_ready_is_what_the_definition_says_after_any_events(events: list[tuple[Any, ...]]) -> None:
    both = Both()
    for name, *arguments in events:
        changes, before = both.lanes.changes, both.ready()
        getattr(both, name)(*arguments)
        both.check()
        left = [one for one in before if one in both.turns]
        if both.lanes.changes == changes:
            assert [one for one in both.ready() if one in before] == left, "a change that was not counted"
    while both.definition.waiting or both.definition.batches:
        both.is_taken(3)
        both.is_settled(0)
        both.check()
    assert (both.lanes.closed, both.lanes.footprint <= 65) == (frozenset(), True)


def test_a_key_that_a_sender_names_twice_counts_once() -> None:
    wire = {**parcel("p", "p1", "p2", keys=["a", "b"]).packed().to_wire(), "keys": ["a", "b", "a"], "holds": [3, 3]}
    buf = buffer(linger=0)
    buf.accept(read_submission(wire), NOW)
    batch = take(buf, NOW)
    buf.accept(submission("x", key="a"), NOW)
    assert buf.next_batch(NOW) is None
    buf.complete(batch.id, FlushResult({"written": 3}), NOW)
    assert ids(take(buf, NOW)) == ["x"]


# What it costs


@contextmanager
def lines_counted() -> Iterator[Counter[str]]:
    """Counts the lines of the library that run: a measure of work that no other process disturbs."""
    counts = Counter[str]()

    def note(frame: FrameType, event: str, _: object) -> Any:
        if "temporal_batching" not in frame.f_code.co_filename:
            return None
        counts["lines"] += event == "line"
        return note

    trace = sys.gettrace()
    sys.settrace(note)
    try:
        yield counts
    finally:
        sys.settrace(trace)


def work_beside(buf: Buffer) -> int:
    """What it takes that requests of other keys come, go into batches and are settled."""
    free = [submission(f"free-{n}", key=f"free-{n % 7}", expires_at=NOW + 1e6) for n in range(60)]
    with lines_counted() as counts:
        for one in free:
            buf.accept(one, NOW)
            buf.wake_at()
        for _ in range(3):
            batch = take(buf, NOW)
            assert len(batch.submissions) == 20
            buf.wake_at()
            buf.complete(batch.id, FlushResult({"written": 20}), NOW)
        assert buf.withdraw(Withdrawal("backlog-1"), NOW)
    return counts["lines"]


def backlog(kind: str, requests: int) -> Buffer:
    """A shard whose requests of one key, or parcels with it, wait for one in flight."""
    limits = {"linger": 0, "max_in_flight": 2, "max_batch_size": 20, "max_pending": 100_000}
    buf = buffer(**limits, max_pending_bytes=64 * 1_048_576)
    buf.accept(submission("first", key="hot", expires_at=NOW + 1e6), NOW)
    take(buf, NOW)
    for n in range(requests):
        one = submission(f"backlog-{n}", key="hot", expires_at=NOW + 1e6)
        if kind == "parcels":
            one = parcel(f"backlog-{n}", f"{n}/1", f"{n}/2", keys=["hot", f"k{n}"])
        buf.accept(one, NOW)
    return buf


@pytest.mark.parametrize("kind", ["requests", "parcels"])
def test_a_backlog_of_one_key_costs_the_others_nothing(kind: str) -> None:
    assert work_beside(backlog(kind, 3_000)) <= work_beside(backlog(kind, 30)) + 50


def test_each_batch_of_a_backlog_costs_no_more_than_what_is_in_it() -> None:
    """Each blocks all that waits behind it, and frees it."""
    lines = []
    for requests in (200, 2_000):
        buf = backlog("requests", requests)
        with lines_counted() as counts:
            buf.complete("main-0/1", FlushResult({"written": 1}), NOW)
            for _ in range(5):
                buf.complete(take(buf, NOW).id, FlushResult({"written": 20}), NOW)
        lines.append(counts["lines"])
    assert lines[1] <= lines[0] + 50
