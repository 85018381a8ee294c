"""Who goes before whom: the order of requests that share a key. A part of the `Buffer`, and as pure.

A *lane* is what waits under one key, in order of arrival. It is closed while a request of its key is in a batch that is
not settled. A request without a key is in a lane that is never closed; one with several keys (a parcel) is in several
lanes. A request is *ready* once it is the first in each of its lanes and none of them is closed.

A parcel whose keys are many, and not known here, is in every lane there is and in each that is made while it waits: it
goes after all before it that have a key, and before all after it that have one. In a batch it closes every lane.

What this costs does not depend on how much waits: a request is looked at when it comes, when it becomes the first of a
lane, and when it goes; and a lane that closes or opens concerns only its first. So a backlog of one key costs the
batches of all others nothing.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from temporal_batching.wire.submission import Submission

_GONE = -1
"""What is missing to a request that does not wait any more: nothing can make it ready."""


@dataclass(slots=True, eq=False)
class Turn:
    """A request that waits, and its places.

    Attributes:
        number: Its place in the order of arrival.
        submission: The request, or the parcel.
        lanes: Those of its keys.
        missing: In how many of them it is not the first, or which are closed; and one more while an earlier request of
            its id is in a batch.
        listed: It has an entry in the heap of those that may be ready.
    """

    number: int
    submission: Submission
    lanes: dict[_Lane, None]
    missing: int = 0
    listed: bool = False


@dataclass(slots=True, eq=False)
class _Lane:
    """What waits under a key, and how many requests in batches have it."""

    key: str
    closed: int = 0
    turns: OrderedDict[int, Turn] = field(default_factory=OrderedDict)  # a dict would search for its first


class Lanes:
    """All lanes of a shard.

    Attributes:
        changes: Counts whenever something that waits became ready, or is not ready any more.
    """

    def __init__(self) -> None:
        self.changes = 0
        self._number = 0
        self._keys: dict[str, _Lane] = {}
        self._without_key = _Lane("")
        self._every = _Lane("")  # what is in every lane
        self._same_id: dict[str, Turn] = {}  # what waits for the end of an earlier request of its id
        self._waiting = 0
        self._heads: list[tuple[int, Turn]] = []  # a heap; an entry counts if nothing is missing to it when it surfaces

    @property
    def closed(self) -> frozenset[str]:
        """The keys of closed lanes."""
        return frozenset(lane.key for lane in self._keys.values() if lane.closed)

    @property
    def footprint(self) -> int:
        """How many entries are kept: lanes, and the entries of the heap."""
        return len(self._keys) + len(self._heads)

    # What comes and goes

    def add(self, submission: Submission, *, id_in_batch: bool) -> Turn:
        """Puts a request at the end of its lanes.

        Args:
            submission: The request.
            id_in_batch: Whether an earlier request of its id is in a batch: until that is settled it is not ready.
        """
        self._number += 1
        lanes = dict.fromkeys(
            self._every_lane() if submission.has_many_keys else [self._lane(key) for key in submission.keys]
        )
        if not lanes:  # one that waits for its id is in a lane by itself: nobody waits for a request without a key
            lanes = {_Lane("") if id_in_batch else self._without_key: None}
        turn = Turn(self._number, submission, lanes)
        for lane in lanes:
            if lane.turns or lane.closed:
                turn.missing += 1
            lane.turns[turn.number] = turn
        if id_in_batch:
            turn.missing += 1
            self._same_id[submission.id] = turn
        self._waiting += 1
        self._list(turn)
        return turn

    def remove(self, turn: Turn) -> None:
        """Takes a request out of its lanes: it went into a batch, or does not wait any more."""
        turn.missing = _GONE
        self._waiting -= 1
        if self._same_id.get(turn.submission.id) is turn:
            del self._same_id[turn.submission.id]
        for lane in turn.lanes:
            was_first = _first(lane) is turn
            del lane.turns[turn.number]
            if was_first and not lane.closed and lane.turns:
                self._come_closer(_first(lane))
            self._forget_if_empty(lane)
        self._forget_entries()

    def close(self, submission: Submission) -> None:
        """A request is in a batch from now on: what waits under its keys is not ready."""
        lanes = self._every_lane() if submission.has_many_keys else map(self._lane, submission.keys)
        for lane in lanes:
            lane.closed += 1
            if lane.closed == 1 and lane.turns:
                _first(lane).missing += 1
                self.changes += 1

    def open(self, submission: Submission) -> None:
        """A request in a batch is settled."""
        lanes = list(self._every_lane()) if submission.has_many_keys else map(self._keys.__getitem__, submission.keys)
        for lane in lanes:
            lane.closed -= 1
            if not lane.closed and lane.turns:
                self._come_closer(_first(lane))
            self._forget_if_empty(lane)
        same_id = self._same_id.pop(submission.id, None)
        if same_id is not None:
            self._come_closer(same_id)

    def _lane(self, key: str) -> _Lane:
        lane = self._keys.get(key)
        if lane is None:
            lane = self._keys[key] = _Lane(key, self._every.closed)
            for turn in self._every.turns.values():
                turn.missing += bool(lane.turns or lane.closed)
                turn.lanes[lane] = None
                lane.turns[turn.number] = turn
        return lane

    def _every_lane(self) -> Iterator[_Lane]:
        yield self._every
        yield from self._keys.values()

    def _come_closer(self, turn: Turn) -> None:
        turn.missing -= 1
        self.changes += 1
        self._list(turn)

    def _list(self, turn: Turn) -> None:
        if not turn.missing and not turn.listed:
            turn.listed = True
            heapq.heappush(self._heads, (turn.number, turn))

    def _forget_if_empty(self, lane: _Lane) -> None:
        """Forgets a lane with nothing in it, or only what is in every lane."""
        if self._keys.get(lane.key) is not lane:
            return
        if len(lane.turns) > len(self._every.turns) or lane.closed > self._every.closed:
            return
        del self._keys[lane.key]
        first = True
        for turn in lane.turns.values():
            turn.missing -= not first or lane.closed > 0
            del turn.lanes[lane]
            first = False

    def _forget_entries(self) -> None:
        if len(self._heads) > 2 * self._waiting + 64:
            for _, turn in self._heads:
                turn.listed = not turn.missing
            self._heads = [entry for entry in self._heads if entry[1].listed]
            heapq.heapify(self._heads)

    # Who is next

    def ready(self) -> Iterator[Turn]:
        """What may go into the next batch, in order of arrival: a request after those before it in its lanes.

        Nothing may change while this is iterated.
        """
        while self._heads and self._heads[0][1].missing:
            heapq.heappop(self._heads)[1].listed = False
        heads = self._heads.copy()
        missing: dict[Turn, int] = {}  # to what is behind those that were taken
        behind: dict[_Lane, Iterator[Turn]] = {}
        while heads:
            _, turn = heapq.heappop(heads)
            if missing.get(turn, turn.missing):
                continue
            yield turn
            for lane in turn.lanes:
                if lane not in behind:
                    behind[lane] = iter(lane.turns.values())
                    next(behind[lane])  # the turn itself
                follower = next(behind[lane], None)
                if follower is not None:
                    missing[follower] = missing.get(follower, follower.missing) - 1
                    if not missing[follower]:
                        heapq.heappush(heads, (follower.number, follower))

    def is_ready_after(self, turn: Turn, others: Collection[Turn]) -> bool:
        """Whether what came last is ready.

        Args:
            turn: The request that was added last.
            others: All others that are ready.
        """
        return turn.submission.id not in self._same_id and all(_is_open_after(lane, others) for lane in turn.lanes)


def _first(lane: _Lane) -> Turn:
    return next(iter(lane.turns.values()))


def _is_open_after(lane: _Lane, others: Collection[Turn]) -> bool:
    """Whether the last turn of a lane is ready in it if those others are."""
    last_two: Iterable[Turn] = reversed(lane.turns.values())
    _, before = next(backwards := iter(last_two)), next(backwards, None)
    return not lane.closed if before is None else before in others
