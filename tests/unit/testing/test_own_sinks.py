"""Our own sinks that need no database keep what a sink promises."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from temporal_batching import (
    ConsoleSink,
    MemorySink,
    TableRule,
    WriteRequest,
)
from temporal_batching.testing import SinkPromise, check_sink
from tests.unit.testing.good_sink import add, bad, delete, update

CHANGES = (SinkPromise.CHANGED, SinkPromise.MISSING_ROW, SinkPromise.ADDED)


@pytest.mark.parametrize("promise", CHANGES)
async def test_the_memory_sink_with_rules_keeps(promise: SinkPromise) -> None:
    sink = MemorySink(
        tables={
            "check_sink": TableRule(key=["number"], operations={"insert", "update", "delete"}),
            "check_totals": TableRule(conflict="add", key=["name"], add=["total"]),
        }
    )
    await check_sink(
        lambda: sink,
        promise,
        rows=lambda: [(row["number"], row["text"]) for row in sink.rows.get("check_sink", [])],
        update=update,
        delete=delete,
        add=add,
        totals=lambda: [(row["total"], row["name"]) for row in sink.rows["check_totals"]],
    )


@pytest.mark.parametrize("promise", [promise for promise in SinkPromise if promise not in CHANGES])
async def test_the_memory_sink_keeps(promise: SinkPromise) -> None:
    def reject(request: WriteRequest) -> str | None:
        return "no text" if any(record.values.get("text") is None for record in request.records) else None

    sink = MemorySink(reject=reject)

    @contextmanager
    def outage() -> Iterator[None]:
        sink.fail_next()
        yield

    await check_sink(
        lambda: sink,
        promise,
        rows=lambda: [(row["number"], row["text"]) for row in sink.rows.get("check_sink", [])],
        bad=bad,
        outage=outage,
        dead_letters=lambda: [letter.request.request_id for letter in sink.dead_letters.values()],
        returning=["number", "text"],
    )


@pytest.mark.parametrize("promise", [promise for promise in SinkPromise if promise not in CHANGES])
async def test_the_console_sink_keeps_for_the_life_of_its_process(promise: SinkPromise) -> None:
    """What it prints is text for people, so only its answers are checked."""
    sink = ConsoleSink(io.StringIO())
    await check_sink(lambda: sink, promise, fences=False)
