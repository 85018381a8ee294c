"""What a writer by Nexus says before it writes, and how it waits for its turn."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from nexusrpc import HandlerError, HandlerErrorType
from temporalio import workflow
from temporalio.exceptions import ApplicationError, NexusOperationError

from temporal_batching import BatchWriter
from temporal_batching.errors import ErrorType, InvalidPolicy, WriteNotConfirmed, WriteNotSubmitted
from temporal_batching.writers import nexus
from temporal_batching.writers.attempts import ATTEMPT_TIMEOUT
from temporal_batching.writers.failures import write_error
from temporal_batching.writers.nexus import OPERATIONS_UNDER_WAY, OperationFailed


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"via": "nexus"}, ValueError, "via='nexus' without endpoint"),
        ({"endpoint": "batcher"}, ValueError, "endpoint 'batcher' with via='activity': only via='nexus' has one"),
        ({"via": "signal", "endpoint": "batcher"}, ValueError, "endpoint 'batcher' with via='signal'"),
        ({"via": "nexus", "endpoint": "batcher", "gateway": "local"}, ValueError, "gateway 'local' with via='nexus'"),
        ({"via": "nexus", "endpoint": "a batcher"}, InvalidPolicy, "Nexus endpoint 'a batcher': 2 to 200 letters"),
        ({"via": "nexus", "endpoint": ""}, InvalidPolicy, "Nexus endpoint '': 2 to 200 letters"),
        ({"via": "http"}, ValueError, "via 'http': 'activity', 'signal' or 'nexus'"),
    ],
)
def test_what_does_not_fit_together_is_refused_when_the_writer_is_made(
    options: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        BatchWriter("main", **options)


def operation_error(cause: BaseException) -> NexusOperationError:
    error = NexusOperationError(
        "failed", scheduled_event_id=5, endpoint="e", service="s", operation="o", operation_token=""
    )
    error.__cause__ = cause
    return error


def test_a_failure_of_the_operation_itself_says_nothing_about_the_write_and_names_its_reason() -> None:
    """An earlier attempt may have started the activity, and then the endpoint was deleted."""
    for kind in HandlerErrorType:
        cause = nexus._cause_of(operation_error(HandlerError("endpoint not registered", type=kind)))
        error = write_error("r", cause, ATTEMPT_TIMEOUT)
        assert type(error) is WriteNotConfirmed
        assert "endpoint not registered" in error.message


class Run:
    """A workflow run as far as waiting for a turn needs one: its clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(workflow, "time", asyncio.get_running_loop().time)

    @property
    def now(self) -> float:
        return workflow.time()


async def test_a_run_has_no_more_operations_under_way_than_temporal_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    run, open_, most, gate, full = Run(monkeypatch), 0, 0, asyncio.Event(), asyncio.Event()

    async def operation() -> None:
        nonlocal open_, most
        async with nexus._turn(run.now + 60):
            open_ += 1
            most = max(most, open_)
            if open_ == OPERATIONS_UNDER_WAY:
                full.set()
            await gate.wait()
            open_ -= 1

    operations = [asyncio.create_task(operation()) for _ in range(3 * OPERATIONS_UNDER_WAY)]
    await full.wait()
    operations[-1].cancel()
    gate.set()
    ends = await asyncio.gather(*operations, return_exceptions=True)
    assert [end for end in ends if end is not None] == [ends[-1]]
    assert isinstance(ends[-1], asyncio.CancelledError)
    assert (open_, most) == (0, OPERATIONS_UNDER_WAY)


async def test_what_has_no_turn_by_its_deadline_is_not_submitted(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    async with asyncio.TaskGroup() as group:
        gate = asyncio.Event()

        async def operation() -> None:
            async with nexus._turn(run.now + 60):
                await gate.wait()

        for _ in range(OPERATIONS_UNDER_WAY):
            group.create_task(operation())
        await asyncio.sleep(0)
        with pytest.raises(OperationFailed) as failed:
            async with nexus._turn(run.now):
                pass
        gate.set()
    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.type == ErrorType.BATCHER_BUSY
    error = write_error("r", failed.value.cause, ATTEMPT_TIMEOUT)
    assert type(error) is WriteNotSubmitted
    assert "24 Nexus operations of this workflow were under way" in error.message
