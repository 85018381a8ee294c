"""Whatever is sent to a shard, it goes on: no message fails its workflow task, and neighbours commit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowUpdateFailedError
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError

from temporal_batching import BatchPolicy, MemorySink
from tests.support.callers import Listener
from tests.support.service import Service, count, entry, running
from tests.support.waiting import assert_eventually


def request(**fields: Any) -> dict[str, Any]:
    return {"request_id": uuid4().hex, "records": [{"table": "entries", "values": {"n": 1}}], **fields}


def raw(data: bytes, encoding: bytes = b"json/plain") -> RawValue:
    return RawValue(Payload(metadata={"encoding": encoding}, data=data))


def text(wire: Any) -> RawValue:
    """JSON that no client would send: NaN, integers of any length."""
    return raw(json.dumps(wire).encode())


def nested(levels: int) -> RawValue:
    value = b"[" * levels + b"]" * levels
    return raw(json.dumps(request(records=[{"table": "t", "values": {"v": "@"}}])).encode().replace(b'"@"', value))


SHAPES: list[Sequence[Any]] = [
    [],
    [1, 2, 3],
    [None],
    ["text"],
    [[]],
    [[[]]],
    [[1, None, "text"]],
    [{}],
    [{"request_id": "r"}],
    [{"records": [{"table": "t", "values": {"a": 1}}]}],
    [request(request_id=7)],
    [request(request_id="")],
    [request(request_id="r" * 10_000)],
    [request(records={})],
    [request(records=[])],
    [request(records=[{"table": "", "values": {"a": 1}}])],
    [request(records=[{"table": "t", "values": {}}])],
    [request(records=[{"table": "t", "values": [1]}])],
    [request(key=5)],
    [request(reply_to="me")],
    [request(reply_to={})],
    [request(requests=[])],
    [request(requests=[7])],
]
NUMBERS: list[Sequence[Any]] = [
    [text(request(records=[{"table": "t", "values": {"a": float("nan")}}]))],
    [raw(b'{"request_id": "r", "records": [{"table": "t", "values": {"a": 1e999}}]}')],
    [text(request(expires_at=float("nan")))],
    [text(request(expires_at=float("inf")))],
    [text(request(expires_at=10**400))],
    [request(expires_at=1e300)],
    [request(expires_at="tomorrow")],
    [request(expires_at=True)],
]
DEPTHS: list[Sequence[Any]] = [[nested(levels)] for levels in (110, 300, 500, 800, 950)]
UNREADABLE: list[Sequence[Any]] = [
    [nested(5_000)],
    [raw(b"\xff\xfe not JSON")],
    [raw(b"{", b"binary/encrypted")],
    [raw(b"9" * 5_000)],
]


async def went_on(service: Service) -> None:
    """A good write still commits, and no workflow task has failed."""
    (result,) = await service.call("signal", [entry(5)])
    assert result.outcome == "written"
    assert count(await service.events(), EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED) == 0


@pytest.mark.parametrize("junk", [SHAPES, NUMBERS, DEPTHS], ids=["shapes", "numbers", "depths"])
async def test_a_signal_that_holds_no_request_is_counted_and_nothing_else(
    client: Client, junk: list[Sequence[Any]]
) -> None:
    sink = MemorySink()
    async with running(client, sink) as service:
        for arguments in junk:
            await service.shard().signal("add_write_request", args=arguments)
        await went_on(service)
        stats = await service.stats()
    assert stats.malformed >= len(junk) - 1, "an empty list of requests is no mistake"
    assert stats.outcomes == {"written": 1}
    assert sink.rows == {"entries": [{"n": 5}]}


async def test_a_signal_that_cannot_be_decoded_is_dropped(client: Client) -> None:
    async with running(client, MemorySink()) as service:
        for arguments in UNREADABLE:
            await service.shard().signal("add_write_request", args=arguments)
        await went_on(service)


async def test_unknown_signals_and_withdrawals_of_nothing_are_counted(client: Client) -> None:
    async with running(client, MemorySink()) as service:
        await service.shard().signal("no_such_signal", args=[1, 2])
        withdrawals: list[list[Any]] = [[], [1], [None], [""], ["a", "b", "c", "d"], ["a", 1], [{}], ["a" * 256]]
        for arguments in withdrawals:
            await service.shard().signal("withdraw_write_request", args=arguments)
        await went_on(service)
        assert (await service.stats()).malformed == 9


async def test_a_sender_with_a_reply_address_is_notified_what_is_wrong_with_its_signal(client: Client) -> None:
    async with running(client, MemorySink()) as service:
        listener = await service.run(Listener.run, 3)
        reply_to = {"workflow_id": listener.id}
        bad = [
            request(request_id="deep", reply_to=reply_to, records=[{"table": "t", "values": {"v": _lists(200)}}]),
            request(request_id="shape", reply_to=reply_to, records=[]),
            request(request_id="good", reply_to=reply_to),
        ]
        await service.shard().signal("add_write_request", bad)
        received = {answer["request_id"]: answer for answer in await listener.result()}
    assert {name: (answer["outcome"], answer.get("code")) for name, answer in received.items()} == {
        "deep": ("rejected", "invalid"),
        "shape": ("rejected", "invalid"),
        "good": ("written", None),
    }
    assert "nested" in received["deep"]["reason"]
    assert "records is empty" in received["shape"]["reason"]


def _lists(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


ADDRESSES = {
    "not text": {"workflow_id": "lone \ud800 surrogate"},
    "not text, activity": {"workflow_id": "w", "run_id": "\ud800", "activity_id": "1"},
    "too long for the server": {"workflow_id": "é" * 1000},
    "no such run": {"workflow_id": "w", "run_id": "not-a-run-id"},
    "no such workflow": {"workflow_id": "nobody"},
}


async def test_an_unreachable_reply_address_does_not_delay_a_batch(client: Client) -> None:
    sink = MemorySink()
    refused = sum(name.startswith("not text") for name in ADDRESSES)  # by the shard, which has no address to answer
    async with running(client, sink) as service:
        batch = [request(request_id=f"r-{number}", reply_to=to) for number, to in enumerate(ADDRESSES.values())]
        await service.shard().signal("add_write_request", batch)
        await went_on(service)

        async def settled() -> None:
            stats = await service.stats()
            assert stats.outcomes == {"written": len(ADDRESSES) + 1 - refused}
            assert stats.malformed == refused
            assert (stats.breaker, stats.flush_failures) == ("closed", 0)

        await assert_eventually(settled)
    assert len(sink.ledger) == len(ADDRESSES) + 1 - refused


async def test_reply_addresses_count_towards_the_bytes_of_a_batch(client: Client) -> None:
    """Or the flush's input passes the 2 MiB that Temporal takes, and the shard stands still."""
    sink = MemorySink()
    big = BatchPolicy(max_batch_size=5_000, max_batch_records=5_000, max_batch_bytes=100_000)
    async with running(client, sink, big) as service:
        for part in range(3):
            wires = [request(reply_to={"workflow_id": f"{part}-{n}-" + "w" * 980}) for n in range(80)]
            await service.shard().signal("add_write_request", wires)
        await service.handle.flush()
        assert (await service.stats()).outcomes == {"written": 240}
    assert max(len(batch) for batch in sink.batches) <= 100, "of the bytes of their addresses alone no more fit"


ARGUMENTS: dict[str, list[Any]] = {
    "none": [],
    "number": [1],
    "null": [None],
    "text": ["text"],
    "two": [[1], [2]],
    "unknown field": [{"nonsense": 1}],
    "undecodable": [raw(b"\xff")],
    "too deep": [nested(5_000)],
    "wrong type": [{"pause": "yes"}],
}


@pytest.mark.parametrize("update", ["submit", "control"])
async def test_an_update_with_junk_fails_for_its_sender_alone(junk_service: Service, update: str) -> None:
    accepted = []
    for name, arguments in ARGUMENTS.items():
        try:
            await junk_service.shard().execute_update(update, args=arguments)
        except WorkflowUpdateFailedError:
            continue
        accepted.append(name)
    assert accepted == []
    await went_on(junk_service)


@pytest.fixture(scope="module")
async def junk_service(client: Client) -> Any:
    async with running(client, MemorySink()) as service:
        yield service


async def test_junk_inside_a_submission_is_refused_by_position(client: Client) -> None:
    async with running(client, MemorySink()) as service:
        parts = [7, request(), {"records": []}, request(expires_at=1e300), request()]
        result = await service.shard().execute_update("submit", parts)
        assert [(refusal["position"], refusal["code"]) for refusal in result["refused"]] == [
            (0, "invalid"),
            (2, "invalid"),
            (3, "invalid"),
        ]
        await service.handle.flush()
        assert (await service.stats()).outcomes == {"written": 2}


@pytest.mark.parametrize(
    "limits",
    [
        {"linger": -1},
        {"linger": 7_200},
        {"linger": "20s"},
        {"max_batch_size": 0},
        {"max_batch_size": 1.5},
        {"max_batch_bytes": 10**9},
        {"max_pending_bytes": 1},
        {"no_such_limit": 1},
        {"retry_max": 0.001},
        [],
    ],
)
async def test_a_policy_out_of_range_is_refused_with_what_is_allowed(junk_service: Service, limits: Any) -> None:
    before = (await junk_service.stats()).policy
    with pytest.raises(WorkflowUpdateFailedError) as failure:
        await junk_service.shard().execute_update("control", {"policy": limits})
    cause = failure.value.cause
    assert isinstance(cause, ApplicationError)
    assert cause.type == "InvalidPolicy"
    assert any(word in cause.message for word in ("from", "limits", "seconds")), cause.message
    assert (await junk_service.stats()).policy == before
