"""The Nexus service: one activity for each operation, and what its cancellation takes back."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any, cast

import pytest
from nexusrpc import HandlerError, HandlerErrorType
from temporalio import nexus
from temporalio.api.common.v1 import Payload
from temporalio.client import Client
from temporalio.common import RawValue
from temporalio.converter import DataConverter
from temporalio.exceptions import ActivityAlreadyStartedError, ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from temporal_batching.contract import ACTIVITY_RETURNED, ACTIVITY_WRITE, ACTIVITY_WRITE_MANY
from temporal_batching.gateway.activities import Gateway
from temporal_batching.gateway.nexus import UNLIMITED, ActivityOperation, time_left
from temporal_batching.routing import batcher_workflow_id, shard_of


@pytest.mark.parametrize(
    ("headers", "time"),
    [
        ({}, UNLIMITED),
        ({"operation-timeout": "30000ms"}, timedelta(seconds=28.5)),
        ({"Operation-Timeout": "20s"}, timedelta(seconds=19)),
        ({"operation-timeout": "2m"}, timedelta(seconds=114)),
        ({"operation-timeout": "0.5s"}, timedelta(seconds=0.475)),
        ({"operation-timeout": "0ms"}, timedelta(milliseconds=1)),
        ({"operation-timeout": f"{10**30}m"}, UNLIMITED),
    ],
)
def test_the_activity_ends_before_its_operation(headers: dict[str, str], time: timedelta) -> None:
    assert time_left(headers) == time


@pytest.mark.parametrize("given", ["", "soon", "-1s", "1h", "1 s", "1e3s"])
def test_a_timeout_that_cannot_be_read_is_refused(given: str) -> None:
    with pytest.raises(HandlerError, match="a number with ms, s or m") as refused:
        time_left({"operation-timeout": given})
    assert refused.value.type is HandlerErrorType.BAD_REQUEST


class Refuses:
    """A client of the handler whose server answers a start with an error."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def start_activity(self, *_: Any, **__: Any) -> Any:
        raise self._error


def rpc_error(status: RPCStatusCode) -> RPCError:
    return RPCError("what the server says", status, b"")


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        # Its end is on its way to the caller: a failure now would be another answer than the true one.
        (ActivityAlreadyStartedError("a", "batch_write", run_id="r"), True),
        (rpc_error(RPCStatusCode.FAILED_PRECONDITION), True),
        (rpc_error(RPCStatusCode.INVALID_ARGUMENT), False),
    ],
)
async def test_a_start_that_is_repeated_after_its_activity_has_ended_starts_no_other(
    monkeypatch: pytest.MonkeyPatch, error: Exception, retryable: bool
) -> None:
    info = nexus.Info(endpoint="e", namespace="n", task_queue="q")
    monkeypatch.setattr(nexus, "info", lambda: info)
    context = cast(nexus.TemporalStartOperationContext, type("Context", (), {"headers": {}, "request_id": "r"})())
    operation = ActivityOperation(ACTIVITY_WRITE, cast(Gateway, None))
    with pytest.raises(HandlerError) as failed:
        await operation.start_operation(context, cast(nexus.TemporalNexusClient, Refuses(error)), RawValue(Payload()))
    assert failed.value.retryable is retryable
    if not retryable:
        assert "what the server says; `temporal-batching check`" in str(failed.value)


class Described:
    def __init__(self, wire: Any) -> None:
        self._wire = wire

    async def input(self, _: Any) -> list[RawValue]:
        data = self._wire if isinstance(self._wire, bytes) else json.dumps(self._wire).encode()
        return [RawValue(Payload(metadata={"encoding": b"json/plain"}, data=data))]


class Server:
    """A client whose server has one activity with this input; it notes what is done, in order."""

    def __init__(self, wire: Any, *, has_ended: bool = False) -> None:
        self._wire, self._has_ended = wire, has_ended
        self._asked = ""
        self.done: list[Any] = []
        self.data_converter = DataConverter.default

    def get_activity_handle(self, activity_id: str, *, run_id: str) -> Server:
        assert (activity_id, run_id) == ("a", "run")
        return self

    def get_async_activity_handle(self, *, activity_id: str, run_id: str) -> Server:
        return self.get_activity_handle(activity_id, run_id=run_id)

    def get_workflow_handle(self, workflow_id: str) -> Server:
        self._asked = workflow_id
        return self

    async def describe(self, **_: Any) -> Described:
        return Described(self._wire)

    async def signal(self, name: str, *, args: list[Any]) -> None:
        self.done.append((self._asked, name, args))

    async def cancel(self) -> None:
        self._end("cancel")

    async def report_cancellation(self) -> None:
        self._end("report_cancellation")

    def _end(self, what: str) -> None:
        self.done.append(what)
        if self._has_ended:
            raise rpc_error(RPCStatusCode.NOT_FOUND)


async def cancelled(
    monkeypatch: pytest.MonkeyPatch, activity: str, wire: Any, *, has_ended: bool = False, shards: int = 7
) -> list[Any]:
    """What is done when an operation is cancelled."""
    server = Server(wire, has_ended=has_ended)
    client = cast(Client, server)
    monkeypatch.setattr(nexus, "client", lambda: client)
    operation = ActivityOperation(activity, Gateway(client, name="b", shards=shards, task_queue="q"))
    context = cast(nexus.TemporalCancelOperationContext, None)
    await operation.cancel_activity(context, nexus.CancelActivityOptions(activity_id="a", run_id="run"))
    return server.done


ENDED = ["cancel", "report_cancellation"]
RECORDS = [{"table": "t", "values": {"n": 1}}]
WITHDRAW = "withdraw_write_request"


@pytest.mark.parametrize(
    ("activity", "wire", "shard_key", "request_id"),
    [
        (ACTIVITY_WRITE, {"request_id": "r", "records": RECORDS}, "r", "r"),
        (ACTIVITY_WRITE, {"request_id": "r", "key": "k", "records": RECORDS, "batcher": "b"}, "k", "r"),
        (ACTIVITY_WRITE, {"key": "", "request_id": None, "records": RECORDS}, "run/a", "run/a"),
        (ACTIVITY_WRITE_MANY, {"request_id": "p", "shard_key": "k", "requests": []}, "k", "p"),
        (ACTIVITY_WRITE_MANY, {"request_id": "p", "packed": "..."}, "p", "p"),
    ],
)
async def test_a_cancellation_takes_back_what_its_own_activity_asks_for_and_ends_it(
    monkeypatch: pytest.MonkeyPatch, activity: str, wire: Any, shard_key: str, request_id: str
) -> None:
    shard = batcher_workflow_id("b", shard_of(shard_key, 7))
    withdrawal = (shard, WITHDRAW, [request_id, None, "run"])
    for has_ended in (False, True):
        assert await cancelled(monkeypatch, activity, wire, has_ended=has_ended) == [withdrawal, *ENDED]


@pytest.mark.parametrize(
    "wire", [b"no json", [1], None, {"request_id": 7, "records": RECORDS}, {"request_id": "", "records": RECORDS}]
)
async def test_what_no_gateway_would_submit_needs_no_withdrawal(monkeypatch: pytest.MonkeyPatch, wire: Any) -> None:
    assert await cancelled(monkeypatch, ACTIVITY_WRITE, wire) == ENDED


async def test_a_reading_has_nothing_to_take_back(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await cancelled(monkeypatch, ACTIVITY_RETURNED, {"batcher": "b", "request_ids": ["r"]}) == ENDED


async def test_a_cancellation_that_reaches_another_batchers_worker_is_left_to_the_right_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wire = {"request_id": "r", "records": RECORDS, "batcher": "another"}
    with pytest.raises(ApplicationError, match="a worker of batcher 'b'") as refused:
        await cancelled(monkeypatch, ACTIVITY_WRITE, wire)
    assert not refused.value.non_retryable, "Temporal repeats it"
