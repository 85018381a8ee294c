"""A signal that found no batcher is sent again until shortly before its caller's deadline, and not without limit."""

from __future__ import annotations

import itertools

import pytest

from temporal_batching.writers.retries import LAST_ATTEMPT, SHORTEST_PAUSE, pause_before_retry


def attempts(timeout: float) -> list[float]:
    """When a caller signals that never finds a batcher."""
    times = [0.0]
    while (pause := pause_before_retry(len(times), waited=times[-1], left=timeout - times[-1])) is not None:
        assert pause > 0
        times.append(times[-1] + pause)
    return times


def test_the_first_retries_come_soon_and_the_others_every_ten_seconds() -> None:
    times = attempts(120)
    assert times[:6] == [0, 1, 3, 7, 15, 25]
    assert max(later - one for one, later in itertools.pairwise(times)) <= 12


@pytest.mark.parametrize("timeout", [2.5, 20, 120, 3_600, 86_400])
def test_the_last_attempt_comes_shortly_before_the_deadline(timeout: float) -> None:
    assert timeout - LAST_ATTEMPT - SHORTEST_PAUSE <= attempts(timeout)[-1] <= timeout - LAST_ATTEMPT


def test_a_day_of_waiting_does_not_fill_a_history() -> None:
    assert len(attempts(86_400)) < 100


@pytest.mark.parametrize("timeout", [0.01, 0.5, 1.4])
def test_a_short_timeout_has_one_attempt(timeout: float) -> None:
    assert attempts(timeout) == [0.0]
