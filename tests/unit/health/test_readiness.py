"""A worker is ready if it reaches Temporal and its sink, and polls; many probes cost no more than one."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import pytest
from temporalio.service import RPCError, RPCStatusCode

from temporal_batching import MemorySink, SinkConfigurationError, SinkUnavailable
from temporal_batching.health import readiness
from temporal_batching.health.readiness import SERVING, STARTING, STOPPING, Look, Readiness


class Checked(MemorySink):
    """A sink that answers a check as a test wants."""

    def __init__(self) -> None:
        super().__init__()
        self.checks = 0
        self.error: Exception | None = None
        self.answers = asyncio.Event()
        self.answers.set()

    async def check(self) -> datetime | None:
        self.checks += 1
        await self.answers.wait()
        if self.error is not None:
            raise self.error
        return None


class Scene:
    """A worker's surroundings."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sink = Checked()
        self.state = SERVING
        self.pollers: list[str] | RPCError = ["worker-1"]
        client: Any = type("Client", (), {"namespace": "default"})()

        async def pollers(*_: Any, **__: Any) -> list[str]:
            if isinstance(self.pollers, RPCError):
                raise self.pollers
            return self.pollers

        monkeypatch.setattr(readiness, "pollers", pollers)
        self.readiness = Readiness(client, task_queue="q", sink=self.sink, state=lambda: self.state)

    async def unmet(self) -> dict[str, str]:
        return {one.name: one.detail for one in await self.readiness.conditions() if not one.met}


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


async def test_ready_when_all_answer(scene: Scene) -> None:
    assert [one.name for one in await scene.readiness.conditions()] == ["temporal", "sink", "polling"]
    assert await scene.unmet() == {}


async def test_not_ready_before_the_sink_is_open_and_it_is_not_asked_then(scene: Scene) -> None:
    scene.state = STARTING
    assert await scene.unmet() == {"sink": "it is not open yet", "polling": "the worker is starting"}
    assert scene.sink.checks == 0


async def test_not_ready_as_soon_as_the_worker_is_to_stop(scene: Scene) -> None:
    assert await scene.unmet() == {}
    scene.state = STOPPING
    assert await scene.unmet() == {"polling": "the worker is stopping"}


async def test_not_ready_before_temporal_has_seen_a_poll(scene: Scene) -> None:
    scene.pollers = []
    assert list(await scene.unmet()) == ["polling"]


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (SinkUnavailable("postgresql: connection refused"), "postgresql: connection refused"),
        (SinkConfigurationError("this role lacks INSERT"), "this role lacks INSERT"),
        (ValueError("values of a record"), "ValueError"),
    ],
)
async def test_a_sink_that_takes_no_writes_is_named_without_the_text_of_an_unexpected_error(
    scene: Scene, error: Exception, detail: str
) -> None:
    scene.sink.error = error
    assert await scene.unmet() == {"sink": detail}


async def test_temporal_out_of_reach_is_named(scene: Scene) -> None:
    scene.pollers = RPCError("connection refused", RPCStatusCode.UNAVAILABLE, b"")
    assert (await scene.unmet())["temporal"] == "UNAVAILABLE: connection refused"


async def test_a_sink_that_does_not_answer_is_asked_once_however_often_a_probe_comes(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question that hangs occupies a thread of the sink; a hundred would leave none for the flushes."""
    monkeypatch.setattr(readiness, "LOOK_TIMEOUT", readiness.LOOK_TIMEOUT / 300)
    scene.sink.answers.clear()
    assert all(["sink" in await scene.unmet() for _ in range(20)])
    assert scene.sink.checks == 1
    scene.sink.answers.set()
    await asyncio.sleep(0)
    monkeypatch.undo()
    assert (await scene.readiness._looks[1].condition()).met
    scene.readiness.stop()


async def test_probes_at_the_same_time_cost_one_question(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    async def ask() -> str:
        nonlocal asked
        asked += 1
        return f"answer {asked}"

    look = Look("it", ask)
    assert {one.detail for one in await asyncio.gather(*(look.condition() for _ in range(50)))} == {"answer 1"}
    monkeypatch.setattr(readiness, "FRESH", readiness.FRESH * 0)
    assert (await look.condition()).detail == "answer 2"
