"""A worker's process has the garbage collector look less often, unless it has decided on that itself."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest

from temporal_batching import run_worker
from temporal_batching.collector import YOUNG_OBJECTS, collect_less_often


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    gc.set_threshold(*threshold)
    gc.enable()


def test_python_s_own_threshold_is_raised() -> None:
    gc.set_threshold(700, 7, 8)
    collect_less_often()
    assert gc.get_threshold()[:2] == (YOUNG_OBJECTS, 7)


@pytest.mark.parametrize("young", [YOUNG_OBJECTS + 1, 0])
def test_a_process_that_has_decided_keeps_what_it_has(young: int) -> None:
    """Zero switches the collector off."""
    gc.set_threshold(young, 10, 10)
    collect_less_often()
    assert gc.get_threshold()[0] == young


def test_a_collector_that_is_switched_off_stays_as_it_is() -> None:
    gc.set_threshold(700, 10, 10)
    gc.disable()
    collect_less_often()
    assert gc.get_threshold()[0] == 700
    assert not gc.isenabled()


async def test_a_worker_process_collects_less_often() -> None:
    class Worker:
        async def run(self) -> None:
            assert gc.get_threshold()[0] == YOUNG_OBJECTS

    worker: Any = Worker()
    gc.set_threshold(700, 10, 10)
    await run_worker(worker)
    assert gc.get_threshold()[0] == YOUNG_OBJECTS
