"""What a watcher is told: a new run, a sink that fails, a pause; and that the figures fit where they are shown."""

from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from temporal_batching import BatcherStats
from temporal_batching.cli import monitor
from temporal_batching.settings import load

FIRST = BatcherStats("main", 0, run_id="11111111-aaaa", outcomes={"written": 7}, batches_by_trigger={"linger": 1})


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[BatcherStats]:
    """What the shard answers, look by look."""
    answers: list[BatcherStats] = []

    async def read_stats(*_: object) -> list[BatcherStats]:
        if not answers:
            raise monitor.NoAnswer("nobody answers")
        return [answers.pop(0)]

    monkeypatch.setattr(monitor, "read_stats", read_stats)
    return answers


@pytest.mark.parametrize(
    ("now", "news"),
    [
        ({"run_id": "22222222-bbbb", "continue_as_new": 1, "pending": 3}, "11111111 -> 22222222 (cycle 1, 3 pending)"),
        ({"run_id": "33333333-cccc", "continue_as_new": 4}, "continued as new 4 times"),
        ({"run_id": "22222222-bbbb"}, "was started again"),
        ({"breaker": "open", "sink_error": "connection refused"}, "sink unavailable: connection refused"),
        ({"suggested": True}, "Temporal suggests to continue as new"),
        ({"paused": True}, "is paused"),
        ({"draining": True}, "is draining"),
    ],
)
async def test_every_change_of_state_is_told_once(now: dict[str, object], news: str, looks: list[BatcherStats]) -> None:
    second = dataclasses.replace(FIRST, **now)  # type: ignore[arg-type]
    looks += [FIRST, second, second]
    watch = monitor._Watch(load())
    client: object = None
    await watch.look(client)  # type: ignore[arg-type]
    assert [news in event for event in (await watch.look(client)).events] == [True]  # type: ignore[arg-type]
    assert (await watch.look(client)).events == []  # type: ignore[arg-type]


async def test_a_batcher_that_does_not_answer_is_told_once_and_followed(looks: list[BatcherStats]) -> None:
    watch = monitor._Watch(load())
    client: object = None
    assert len((await watch.look(client)).events) == 1  # type: ignore[arg-type]
    assert (await watch.look(client)).events == []  # type: ignore[arg-type]
    looks.append(FIRST)
    assert "answers again" in (await watch.look(client)).events[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("shards", [1, 3, 60])
def test_the_figures_of_any_number_of_shards_fit_the_terminal(shards: int) -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    stats = [dataclasses.replace(FIRST, shard=shard, pending=10_000) for shard in range(shards)]
    console.print(monitor.table(stats, width=80))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(len(line) <= 80 for line in text.splitlines())
    assert text.count("gathering") == shards
    assert "10,000" in text


def test_a_shard_in_plain_text_is_one_line_of_names_and_values() -> None:
    line = monitor.plain(FIRST)
    assert line.startswith("main-0 state=idle pending=0 ")
    assert "written=7 duplicate=0 rejected=0 expired=0" in line
    assert all("=" in word for word in line.split()[1:])
