"""What a watcher sees: a new run, a sink that fails, a pause; and that the figures fit where they are shown."""

from __future__ import annotations

import asyncio
import dataclasses
import io
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import cast

import pytest
from rich.console import Console

from temporal_batching import BatcherHandle, BatcherNotRunning, BatcherStats
from temporal_batching.monitoring import monitor
from temporal_batching.monitoring.view import figures, plain
from temporal_batching.monitoring.watch import Watch, changes
from temporal_batching.terminal import CleanConsole

FIRST = BatcherStats(
    "main",
    0,
    run_id="11111111-aaaa",
    pending=3,
    run_signals=41,
    run_updates=17,
    batches=12,
    requeued=2,
    dedup_ids=5,
    continue_as_new=6,
    outcomes={"written": 7},
    batches_by_trigger={"linger": 1},
)
DOWN = dataclasses.replace(FIRST, breaker="open", sink_error="connection refused: " + "db.example " * 20)
MANDATORY = [
    ("pending requests", "3"),
    ("signals this session", "41"),
    ("updates this session", "17"),
    ("batches processed", "12"),
    ("requeued requests", "2"),
    ("deduplication ids", "5"),
    ("continue-as-new cycles", "6"),
    ("suggested by Temporal", "no"),
]


class Shards:
    """A batcher of one shard that answers look by look; without an answer it does not run."""

    name, task_queue = "main", "batcher-queue"

    def __init__(self, *answers: BatcherStats) -> None:
        self.answers = list(answers)

    async def stats(self) -> Sequence[BatcherStats]:
        if not self.answers:
            raise BatcherNotRunning("batcher-main-0 does not run")
        return [self.answers.pop(0)]

    @property
    def handle(self) -> BatcherHandle:
        return cast(BatcherHandle, self)


@pytest.mark.parametrize(
    ("now", "news"),
    [
        ({"run_id": "22222222-bbbb", "continue_as_new": 7, "pending": 3}, "11111111 -> 22222222 (cycle 7, 3 pending)"),
        ({"run_id": "33333333-cccc", "continue_as_new": 10}, "continued as new 4 times"),
        ({"run_id": "22222222-bbbb"}, "was started again"),
        ({"breaker": "open", "sink_error": "connection refused"}, "sink unavailable: connection refused"),
        ({"suggested": True}, "Temporal suggests to continue as new"),
        ({"paused": True}, "is paused"),
        ({"draining": True}, "is draining"),
    ],
)
async def test_every_change_of_state_is_reported_once(now: dict[str, object], news: str) -> None:
    second = dataclasses.replace(FIRST, **now)  # type: ignore[arg-type]
    watch = Watch(Shards(FIRST, second, second).handle)
    await watch.look()
    assert [news in event for event in (await watch.look()).events] == [True]
    assert (await watch.look()).events == []
    assert changes(second, second) == []


async def test_a_batcher_that_does_not_answer_is_reported_once_and_followed() -> None:
    shards = Shards()
    watch = Watch(shards.handle)
    assert len((await watch.look()).events) == 1
    assert (await watch.look()).events == []
    shards.answers.append(FIRST)
    assert "answers again" in (await watch.look()).events[0]


def drawn(stats: Sequence[BatcherStats], width: int, height: int | None = None) -> list[str]:
    console = Console(width=width, height=height, record=True, file=io.StringIO())
    console.print(figures(stats, width=width, height=height))
    return console.export_text().splitlines()


@pytest.mark.parametrize("shard", [FIRST, DOWN])
def test_on_a_small_terminal_all_that_matters_can_be_read_and_signals_come_first(shard: BatcherStats) -> None:
    lines = drawn([shard], 40, 15)
    assert len(lines) <= 13, "two lines are for what happens meanwhile"
    assert all(len(line) <= 40 for line in lines)
    shown = [line.rsplit(maxsplit=1) for line in lines]
    for label, value in MANDATORY:
        assert [label, value] in [[one.strip() for one in pair] for pair in shown]
    assert ["breaker", shard.breaker] in shown
    labels = [pair[0].strip() for pair in shown]
    assert labels.index("signals this session") < labels.index("updates this session")
    assert any(line.startswith("sink: connection refused") for line in lines) is (shard is DOWN)


@pytest.mark.parametrize("shards", [1, 3, 60])
@pytest.mark.parametrize(("width", "height"), [(40, 15), (40, 40), (80, 24), (200, 50)])
def test_the_figures_of_any_number_of_shards_fit_the_terminal(shards: int, width: int, height: int) -> None:
    stats = [dataclasses.replace(DOWN, shard=shard, pending=10_000) for shard in range(shards)]
    lines = drawn(stats, width, height)
    assert len(lines) <= height - 2
    assert all(len(line) <= width for line in lines)
    assert f"{10_000 * shards:,}" in "\n".join(lines) or shards == 3
    assert "10,000" in "\n".join(lines) or shards > 1


@pytest.mark.parametrize("shards", [1, 2, 60])
def test_everything_that_is_wrong_at_once_and_large_figures_leave_the_labels_readable(shards: int) -> None:
    worst = dataclasses.replace(DOWN, batcher="b" * 63, paused=True, draining=True, pending=99_999, batches=9_999_999)
    lines = drawn([dataclasses.replace(worst, shard=shard) for shard in range(shards)], 40, 15)
    assert len(lines) <= 13
    assert all(len(line) <= 40 for line in lines)
    assert "state: sink down, draining, paused" in lines
    for label, _ in MANDATORY:
        assert any(line.startswith(f"{label} ") for line in lines)


def test_without_a_height_every_shard_has_its_row() -> None:
    lines = drawn([dataclasses.replace(FIRST, shard=shard) for shard in range(60)], 80)
    assert "\n".join(lines).count("gathering") == 61  # and all together


def test_shards_that_need_attention_are_shown_where_there_is_no_room_for_all() -> None:
    stats = [dataclasses.replace(FIRST, shard=shard, pending=1) for shard in range(60)]
    stats[41] = dataclasses.replace(DOWN, shard=41)
    lines = drawn(stats, 80, 24)
    assert any(line.split()[:3] == ["41", "sink", "down"] for line in lines)
    assert any("more" in line for line in lines)


def test_a_shard_in_plain_text_is_one_line_of_names_and_values() -> None:
    line = plain(FIRST)
    assert line.startswith("main-0 state=gathering pending=3 signals=41 updates=17 batches=12 ")
    assert "written=7 duplicate=0 rejected=0 expired=0" in line
    assert all("=" in word for word in line.split()[1:])


@pytest.mark.parametrize("terminal", [True, False])
async def test_the_monitor_follows_a_batcher_into_its_next_run(terminal: bool) -> None:
    after = dataclasses.replace(FIRST, run_id="22222222-bbbb", continue_as_new=7, run_signals=1)
    shards = Shards(FIRST, after)
    stream = io.StringIO()
    console = CleanConsole(file=stream, force_terminal=terminal, width=40, height=15, color_system=None)
    watching = asyncio.create_task(monitor(shards.handle, interval=timedelta(milliseconds=1), console=console))
    async with asyncio.timeout(10):
        while "does not run" not in stream.getvalue().replace("\n", " "):  # noqa: ASYNC110  it is a stream
            await asyncio.sleep(0.01)
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    assert "continued as new" in stream.getvalue()
    assert "22222222" in stream.getvalue()
