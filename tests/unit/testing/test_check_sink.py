"""`check_sink` finds what is wrong with a sink: each of these is broken in one way, and named for it."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from temporal_batching.testing import BrokenPromise, SinkPromise, check_sink
from temporal_batching.testing.sink_promises import CHECKS
from tests.unit.testing.good_sink import GoodSink, Store, check
from tests.unit.testing.mistakes import MISTAKES, FirstOnly


@pytest.mark.parametrize("promise", SinkPromise)
async def test_a_sink_without_a_mistake_keeps(promise: SinkPromise) -> None:
    assert (await check(GoodSink, promise)).kept == [promise]


@pytest.mark.parametrize(("kind", "promise"), MISTAKES.items(), ids=lambda value: getattr(value, "__name__", None))
async def test_a_mistake_is_named_by_the_promise_that_it_breaks(kind: type[GoodSink], promise: SinkPromise) -> None:
    with pytest.raises(BrokenPromise) as caught:
        await check(kind, promise)
    assert caught.value.promise == promise
    assert caught.value.case
    assert str(promise) in str(caught.value)
    assert caught.value.expected in str(caught.value)
    assert caught.value.actual in str(caught.value)


def test_there_is_a_mistake_for_every_promise() -> None:
    assert set(MISTAKES.values()) == set(SinkPromise) == set(CHECKS)


async def test_a_whole_check_reports_everything_that_is_broken() -> None:
    with pytest.raises(BrokenPromise) as caught:
        await check(FirstOnly)
    assert caught.value.promise == SinkPromise.WRITTEN_ONCE
    assert {note.split(":")[0] for note in caught.value.__notes__} >= {f"and {SinkPromise.ATOMIC}"}


async def test_a_sink_that_never_answers_is_not_waited_for() -> None:
    class Stuck(GoodSink):
        async def trip(self) -> None:
            await asyncio.Event().wait()

    with pytest.raises(BrokenPromise, match=r"no answer within 0\.05 s"):
        await check_sink(lambda: Stuck(Store()), SinkPromise.OUTCOMES, timeout=timedelta(seconds=0.05))


async def test_a_sink_that_is_unavailable_for_no_reason_is_named() -> None:
    store = Store(away=True)
    with pytest.raises(BrokenPromise, match="the store is away"):
        await check_sink(lambda: GoodSink(store), SinkPromise.OUTCOMES)
