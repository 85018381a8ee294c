"""An attempt that is over for Temporal says nothing to a caller."""

from __future__ import annotations

from datetime import timedelta

import pytest
from temporalio.exceptions import ApplicationError

from temporal_batching import MemorySink
from temporal_batching.errors import ErrorType
from temporal_batching.flush.attempt_time import AttemptTime
from temporal_batching.flush.settlement import write_batch
from temporal_batching.wire.submission import load_submission
from tests.support.flushes import Calls, FakeSink, all_written, flush_of, run, wire


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_it_is_over_after_its_longest_time() -> None:
    clock = Clock()
    attempt = AttemptTime(longest=timedelta(seconds=5), clock=clock)
    clock.now += 4.9
    assert not attempt.is_over
    clock.now += 0.1
    assert attempt.is_over


def test_it_is_over_after_a_silence_also_if_it_beats_again() -> None:
    clock = Clock()
    attempt = AttemptTime(longest=None, silence=timedelta(seconds=3), clock=clock)
    for _ in range(4):
        clock.now += 2
        assert not attempt.is_over
        attempt.beat()
    clock.now += 3
    assert attempt.is_over
    attempt.beat()
    attempt.beat()
    assert attempt.is_over


def test_without_limits_it_is_never_over() -> None:
    clock = Clock()
    attempt = AttemptTime(longest=None, clock=clock)
    clock.now += 1e9
    assert not attempt.is_over


@pytest.mark.parametrize("expires_at", [1.0, None], ids=["late", "in time"])
async def test_what_it_found_out_reaches_nobody(expires_at: float | None) -> None:
    submissions = [load_submission(wire("a", expires_at=expires_at))]

    for sink in (FakeSink(all_written), MemorySink()):
        with pytest.raises(ApplicationError, match="took too long") as failure:
            await write_batch(sink, flush_of(), submissions, is_over=lambda: True)
        assert failure.value.type == ErrorType.SINK_UNAVAILABLE
        assert failure.value.details[0] is (expires_at is None), "written by it, or not touched"


async def test_the_activity_lets_nobody_hear_of_it() -> None:
    calls = Calls()
    with pytest.raises(ApplicationError, match="took too long"):
        await run(FakeSink(all_written), flush_of(wire("a"), wire("b", expires_at=1.0)), calls, longest=timedelta(0))
    assert (calls.completed, calls.failed, calls.signalled) == ({}, {}, [])
    await run(FakeSink(all_written), flush_of(wire("a")), calls)
    assert len(calls.completed) + len(calls.signalled) == 1
