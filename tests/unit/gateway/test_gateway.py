"""What the gateway says about a request, when it hands it over, and together with which others."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Sequence
from typing import Any, cast

import pytest
from temporalio.activity import _CompleteAsyncError
from temporalio.client import Client, WorkflowUpdateFailedError
from temporalio.common import RawValue
from temporalio.converter import DataConverter
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from temporal_batching.contract import BatcherStart, JsonObject, Refusal, RejectCode, SubmitResult
from temporal_batching.errors import ErrorType
from temporal_batching.gateway.activities import Gateway
from temporal_batching.gateway.submitter import ShardSubmitter
from temporal_batching.wire.requests import default_request_id
from temporal_batching.wire.submission import Submission, read_submission

CALL = {"request_id": "r", "records": [{"table": "entries", "values": {"n": 1}}]}


@pytest.mark.parametrize(
    ("attempt", "heartbeat_details", "resubmitted"),
    [
        (1, [], False),
        (2, [1], False),  # the attempt before was refused outright, and said so
        (2, [], True),  # it ended otherwise: by a crash, or a lost answer
        (3, [1], True),
    ],
)
async def test_a_retry_says_so_unless_every_attempt_was_refused(
    attempt: int, heartbeat_details: Sequence[Any], resubmitted: bool
) -> None:
    environment = ActivityEnvironment()
    environment.info = dataclasses.replace(environment.info, attempt=attempt, heartbeat_details=heartbeat_details)
    gateway = Gateway(cast(Client, None))  # reading needs no server

    async def read() -> Submission:
        return gateway._read(dict(CALL))

    assert (await environment.run(read)).resubmitted is resubmitted


class Submitter(ShardSubmitter):
    """A submitter whose shard answers as the test says, and notes what it was sent."""

    def __init__(self, gather: float = 0.0, enough: int = 100, busy: Sequence[bool] = ()) -> None:
        super().__init__(cast(Client, None), BatcherStart("main", 0), "queue")
        self._gather, self._enough = gather, (enough, 3 * enough)
        self.busy = list(busy)
        self.sent: list[list[JsonObject]] = []

    async def _update(self, wires: list[JsonObject]) -> SubmitResult:
        self.sent.append(wires)
        if self.busy:
            cause = ApplicationError("busy", self.busy.pop(0), type=ErrorType.BATCHER_BUSY)
            raise WorkflowUpdateFailedError(cause)
        return SubmitResult([], self._gather, *self._enough)


def request(number: int, *, records: int = 1, expires_in: float | None = None) -> Submission:
    wire: JsonObject = {"request_id": f"r-{number}", "records": [{"table": "t", "values": {"n": 1}}] * records}
    return read_submission({**wire, "expires_at": None if expires_in is None else time.time() + expires_in})


async def test_a_full_batch_is_not_kept_to_gather_more() -> None:
    submitter = Submitter(gather=3600, enough=10)
    await asyncio.gather(*(submitter.submit(request(n)) for n in range(10)))
    await submitter.submit(request(10, records=30))
    assert [len(update) for update in submitter.sent] == [10, 1]


async def test_company_is_waited_for_as_long_as_the_shard_says_and_the_wait_is_told() -> None:
    submitter = Submitter(gather=0.2)
    first = asyncio.create_task(submitter.submit(request(0)))
    await asyncio.sleep(0.05)
    await asyncio.gather(first, submitter.submit(request(1)))
    (update,) = submitter.sent
    assert 0.19 <= update[0]["waited"] < 5
    assert update[0]["waited"] > update[1]["waited"]


async def test_a_deadline_is_not_spent_on_gathering() -> None:
    submitter = Submitter(gather=3600)
    await submitter.submit(request(0, expires_in=0.4))
    await submitter.submit(request(1, expires_in=-1.0))
    assert [len(update) for update in submitter.sent] == [1, 1]


async def test_a_shard_busy_for_a_moment_is_asked_again_without_failing_an_attempt() -> None:
    submitter = Submitter(busy=[True, True])
    assert await submitter.submit(request(0)) is None
    assert len(submitter.sent) == 3


async def test_a_shard_whose_buffer_is_full_is_not_pressed() -> None:
    submitter = Submitter(busy=[False, False])
    assert await submitter.submit(request(0)) == Refusal(0, RejectCode.OVERLOADED, "busy")
    assert len(submitter.sent) == 1


async def test_a_submission_that_fails_in_an_unknown_way_does_not_end_the_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    submitter = Submitter()
    with monkeypatch.context() as broken:
        broken.setattr(submitter, "_wires", lambda part: 1 / 0)
        with pytest.raises(ApplicationError, match="ZeroDivisionError") as failure:
            await submitter.submit(request(0))
    assert failure.value.type == ErrorType.BATCHER_UNREACHABLE
    assert await submitter.submit(request(1)) is None


@pytest.mark.parametrize(
    ("expires_in", "attempt", "heartbeat_details", "for_good"),
    [
        pytest.param(None, 1, [], False, id="no deadline"),
        pytest.param(60.0, 1, [], False, id="time for another attempt"),
        pytest.param(0.3, 1, [], True, id="no time for another attempt"),
        pytest.param(0.3, 3, [2], True, id="nor was any accepted before"),
        pytest.param(0.3, 3, [1], False, id="an earlier one may have been accepted"),
    ],
)
async def test_a_caller_whose_next_attempt_would_be_too_late_hears_for_certain_that_it_is_nowhere(
    expires_in: float | None, attempt: int, heartbeat_details: Sequence[Any], for_good: bool
) -> None:
    environment = ActivityEnvironment()
    environment.info = dataclasses.replace(
        environment.info, attempt=attempt, heartbeat_details=heartbeat_details, schedule_to_close_timeout=None
    )
    gateway = Gateway(cast(Client, None))
    gateway._submitters = [Submitter(busy=[False])]
    call = CALL if expires_in is None else {**CALL, "expires_at": time.time() + expires_in}
    with pytest.raises(ApplicationError) as failure:
        await environment.run(gateway.batch_write, sent(call))
    assert failure.value.type == ErrorType.BATCHER_BUSY
    assert failure.value.non_retryable is for_good
    assert list(failure.value.details) == [heartbeat_details != [1]]


@pytest.mark.parametrize("activity", ["batch_write", "batch_write_many"])
@pytest.mark.parametrize("named", [{}, {"request_id": None}])
@pytest.mark.parametrize("workflow", ["order-1", "order-" + "é" * 900])
async def test_a_request_without_an_id_has_that_of_its_activity(
    activity: str, named: JsonObject, workflow: str
) -> None:
    """As long as ids of workflows may be, and also where a language writes null for what is missing."""
    environment = ActivityEnvironment()
    environment.info = dataclasses.replace(environment.info, workflow_id=workflow, workflow_run_id="r", activity_id="7")
    gateway, submitter = Gateway(cast(Client, None)), Submitter()
    gateway._submitters = [submitter]
    one = {"records": CALL["records"]}
    call = {**named, **(one if activity == "batch_write" else {"requests": [CALL]})}
    with pytest.raises(_CompleteAsyncError):
        await environment.run(getattr(gateway, activity), sent(call))
    ((submitted,),) = submitter.sent
    assert submitted["request_id"] == default_request_id(workflow, "r", "7")
    if workflow == "order-1":
        assert submitted["request_id"] == "order-1/r/7"
    else:
        assert len(submitted["request_id"]) == 64


def sent(call: Any) -> RawValue:
    """A call as the worker hands it to the activity."""
    return RawValue(DataConverter.default.payload_converter.to_payload(call))


def parcel(number: int) -> Submission:
    requests = [{"request_id": f"r-{number}-{n}", "records": [{"table": "t", "values": {"n": n}}]} for n in range(3)]
    return read_submission({"request_id": f"p-{number}", "requests": requests})


async def test_parcels_go_packed_and_nothing_else_does() -> None:
    submitter = Submitter()
    await submitter.submit(parcel(0))
    await submitter.submit(request(0))
    assert ["packed" in update[0] for update in submitter.sent] == [True, False]


@pytest.mark.parametrize(
    ("expires_in", "attempt", "heartbeat_details", "for_good"),
    [
        pytest.param(60.0, 1, [], False, id="time for another attempt"),
        pytest.param(0.3, 1, [], True, id="no time for another attempt"),
        pytest.param(0.3, 3, [2], True, id="nor was any accepted before"),
        pytest.param(0.3, 3, [1], False, id="an earlier one may have been accepted"),
    ],
)
async def test_a_write_that_reaches_another_batchers_worker_is_nowhere_and_says_so(
    expires_in: float, attempt: int, heartbeat_details: Sequence[Any], for_good: bool
) -> None:
    beats: list[Any] = []
    environment = ActivityEnvironment()
    environment.on_heartbeat = lambda *details: beats.append(details)
    environment.info = dataclasses.replace(
        environment.info, attempt=attempt, heartbeat_details=heartbeat_details, schedule_to_close_timeout=None
    )
    gateway = Gateway(cast(Client, None), name="orders")
    call = {**CALL, "batcher": "main", "expires_at": time.time() + expires_in}
    with pytest.raises(ApplicationError, match=r"'orders'.*'main'") as failure:
        await environment.run(gateway.batch_write, sent(call))
    assert failure.value.type == ErrorType.WRONG_BATCHER
    assert failure.value.non_retryable is for_good
    never_accepted = heartbeat_details != [1]
    assert failure.value.details == (never_accepted,)
    assert beats == ([(attempt,)] if never_accepted else []), "the next attempt knows that this one was not accepted"


@pytest.mark.parametrize("wire", [{**CALL, "batcher": None}, CALL], ids=["null", "missing"])
async def test_a_write_that_names_no_batcher_is_for_whichever_it_reaches(wire: dict[str, Any]) -> None:
    environment = ActivityEnvironment()
    gateway = Gateway(cast(Client, None), name="orders")
    gateway._submitters = [cast(Any, Refuses())]
    with pytest.raises(ApplicationError) as failure:
        await environment.run(gateway.batch_write, sent(dict(wire)))
    assert failure.value.type == ErrorType.REJECTED


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"records": [{"table": "entries", "values": {"n": nested(101)}}]}, "nested too deeply: at most 100 levels"),
        ({"expires_at": -1}, "until the year 9999"),
        ({"expires_at": 1e15}, "until the year 9999"),
    ],
)
async def test_a_gateway_rejects_all_that_a_shard_would(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ApplicationError, match=message) as failure:
        await ActivityEnvironment().run(Gateway(cast(Client, None)).batch_write, sent({**CALL, **changes}))
    assert failure.value.type == ErrorType.REJECTED


class Refuses:
    """In the place of a shard's submitter: whatever comes has come to the right batcher."""

    async def submit(self, submission: object) -> Refusal:
        return Refusal(0, RejectCode.TOO_LARGE, "it has arrived")
