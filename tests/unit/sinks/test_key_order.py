"""A batch for a destination without an order: as few calls as its keys allow, and nothing lost if one of them fails."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_batching import Batch, Outcome, OutcomeKind, Record, RejectCode, SinkUnavailable, WriteRequest
from temporal_batching.sinks import write_in_key_order

ANSWERS = [Outcome.written(), Outcome.duplicate(), Outcome.retry("later"), Outcome.rejected(RejectCode.TYPE, "no")]


def batch_of(*requests: tuple[str, str]) -> Batch:
    """A batch of requests, each with its id and key."""
    return Batch([WriteRequest(name, [Record("t", {"n": 1})], key) for name, key in requests], id="b/1", attempt=3)


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["", "a", "b", "c"]), st.sampled_from(ANSWERS))))
def test_no_call_has_a_key_twice_and_nothing_follows_what_is_to_be_retried(
    asked: list[tuple[int, str, Outcome]],
) -> None:
    requests = [(f"r-{name}", key) for name, key, _ in asked]
    batch = batch_of(*requests)
    answer_of = {id(request): answer for request, (_, _, answer) in zip(batch, asked, strict=True)}
    calls: list[Batch] = []

    async def write(part: Batch) -> Sequence[Outcome]:
        calls.append(part)
        return [answer_of[id(request)] for request in part]

    outcomes = asyncio.run(write_in_key_order(batch, write))
    written = {id(request): number for number, part in enumerate(calls) for request in part}
    lanes: dict[tuple[str, str], list[int]] = {}
    for position, (name, key) in enumerate(requests):
        lanes.setdefault(("key", key) if key else ("id", name), []).append(position)
    for positions in lanes.values():
        stops = [n for n, p in enumerate(positions) if asked[p][2].kind is OutcomeKind.RETRY]
        end = stops[0] + 1 if stops else len(positions)
        # The first of them in the first call, the second in the second, and so on: in as few calls as possible.
        assert [written.get(id(batch[p])) for p in positions] == [*range(end), *[None] * (len(positions) - end)]
        assert [outcomes[p] for p in positions[:end]] == [asked[p][2] for p in positions[:end]]
        assert {outcomes[p].kind for p in positions[end:]} <= {OutcomeKind.RETRY}
    assert all((part.id, part.attempt) == ("b/1", 3) for part in calls)


@pytest.mark.parametrize(("fails_at", "in_doubt", "expected"), [(1, False, False), (1, True, True), (2, False, True)])
async def test_a_call_that_fails_after_another_one_was_answered_leaves_the_batch_in_doubt(
    fails_at: int, in_doubt: bool, expected: bool
) -> None:
    calls: list[int] = []

    async def write(part: Batch) -> Sequence[Outcome]:
        calls.append(len(part))
        if len(calls) == fails_at:
            raise SinkUnavailable("down", in_doubt=in_doubt)
        return [Outcome.written()] * len(part)

    with pytest.raises(SinkUnavailable, match="down") as failure:
        await write_in_key_order(batch_of(("1", "a"), ("2", "a"), ("3", "")), write)
    assert failure.value.in_doubt is expected
    assert calls == [2, 1][:fails_at]


async def test_a_wrong_number_of_answers_is_not_assigned_to_requests() -> None:
    async def write(part: Batch) -> Sequence[Outcome]:
        return [Outcome.written()]

    with pytest.raises(ValueError, match="zip"):
        await write_in_key_order(batch_of(("1", ""), ("2", "")), write)
