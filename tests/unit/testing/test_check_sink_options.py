"""How `check_sink` is given its sinks, and what it says of what it cannot check."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from unittest import SkipTest

import pytest

from temporal_batching import (
    Sink,
)
from temporal_batching.testing import SinkPromise, check_sink
from tests.unit.testing.good_sink import GoodSink, Store


async def test_a_sink_may_come_from_a_coroutine_or_a_context_manager() -> None:
    store, ended = Store(), []

    async def made() -> Sink:
        return GoodSink(store)

    @asynccontextmanager
    async def managed() -> AsyncIterator[Sink]:
        yield GoodSink(store)
        ended.append(True)

    for make in (made, managed):
        await check_sink(make, SinkPromise.REOPENED, rows=lambda: store.rows)
    assert ended


async def test_what_cannot_be_checked_is_skipped_and_says_what_it_needs() -> None:
    store = Store()
    report = await check_sink(lambda: GoodSink(store), exactly_once=False)
    assert report.skipped[SinkPromise.REJECTED_ALONE] == "bad"
    assert report.skipped[SinkPromise.FENCED] == "exactly_once"
    assert SinkPromise.OUTCOMES in report.kept
    assert {*report.kept, *report.skipped} == set(SinkPromise)
    with pytest.raises(SkipTest, match=re.escape("`bad`")):
        await check_sink(lambda: GoodSink(store), SinkPromise.REJECTED_ALONE)


async def test_a_mistake_in_the_options_is_no_broken_promise() -> None:
    def no_sink() -> Any:
        return contextlib.nullcontext("something")

    with pytest.raises(TypeError, match="not a Sink"):
        await check_sink(no_sink, SinkPromise.OUTCOMES)


def test_it_needs_no_pytest() -> None:
    program = "import sys, temporal_batching.testing; print('pytest' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"
