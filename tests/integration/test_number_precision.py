"""A number arrives as its sender wrote it, or its request is rejected: by every way in, in every kind of column."""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.client import Client
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError

from temporal_batching.contract import OutcomeKind, RejectCode
from tests.support.callers import Listener
from tests.support.databases import TestDatabase
from tests.support.service import Service, running

KEPT = [
    "1.10",
    "-0.1",
    "1e2",
    "1E+2",
    "0.30000000000000004",
    "1234567890.12345",
    "123456789012345678901234567890",
    "5e-324",
    "1.7976931348623157e308",
    "100000000000000000000000.0",
]
LOST = [
    "12345678901234567.89",
    "0.1234567890123456789",
    "9007199254740993.0",
    "0.10000000000000001",
    "1.00000000000000000001",
    "1e400",
    "-1e400",
    "1e-400",
    "1.2345e-320",
    "9" * 5_000,
]
NO_JSON = ["NaN", "Infinity", "-Infinity"]


def raw(text: str) -> RawValue:
    """What a caller in any language puts on the wire."""
    return RawValue(Payload(metadata={"encoding": b"json/plain"}, data=text.encode()))


def one_request(request_id: str, number: str, **fields: Any) -> str:
    wire = {"request_id": request_id, "records": [{"table": "t", "values": {"id": request_id, "v": "@"}}], **fields}
    return json.dumps(wire).replace('"@"', number)


async def by_activity(client: Client, service: Service, name: str, argument: RawValue) -> Any:
    return await client.execute_activity(
        name,
        argument,
        id=uuid4().hex,
        task_queue=service.queue,
        schedule_to_close_timeout=timedelta(seconds=10),
        start_to_close_timeout=timedelta(seconds=10),
    )


async def by_signal(client: Client, service: Service, *requests: str) -> dict[str, Any]:
    """The confirmations by request id, of requests that one signal brings as a list."""
    listener = await client.start_workflow(
        Listener.run,
        len(requests),
        id=uuid4().hex,
        task_queue=service.callers_queue,
        execution_timeout=timedelta(seconds=15),
    )
    reply = json.dumps({"reply_to": {"workflow_id": listener.id}})[1:-1]
    wires = ",".join(f"{one[:-1]},{reply}}}" for one in requests)
    await service.shard().signal("add_write_request", raw(f"[{wires}]"))
    return {one["request_id"]: one for one in await listener.result()}


def create(database: TestDatabase, declared: str) -> None:
    database.execute(f"CREATE TABLE t (id text PRIMARY KEY, v {declared})")


def found(database: TestDatabase) -> dict[str, str]:
    """The numbers by id; a document is a list of one."""
    return {key: text.strip("[]") for key, text in database.rows("SELECT id, CAST(v AS text) FROM t")}


async def test_by_signal_no_number_is_rounded_and_no_neighbour_harmed(client: Client, database: TestDatabase) -> None:
    create(database, "json")
    numbers = [*KEPT, *LOST, *NO_JSON, '{"deep": [12345678901234567.89]}']
    requests = {f"r{n}": number for n, number in enumerate(numbers)}
    async with running(client, database.sink()) as service:
        results = await by_signal(
            client, service, *(one_request(key, f"[{number}]") for key, number in requests.items())
        )
    there = found(database)
    for request_id, number in requests.items():
        if number in KEPT:
            assert results[request_id]["outcome"] == OutcomeKind.WRITTEN, number
            assert Decimal(there[request_id]) == Decimal(number)
        else:
            assert (results[request_id]["outcome"], results[request_id]["code"]) == ("rejected", RejectCode.INVALID), (
                number
            )
            assert "send it as a string" in results[request_id]["reason"]
            assert request_id not in there


@pytest.mark.parametrize("declared", ["json", "numeric"])
async def test_by_activity_no_number_is_rounded(client: Client, postgresql: TestDatabase, declared: str) -> None:
    create(postgresql, declared)
    async with running(client, postgresql.sink()) as service:
        for number in ("0.30000000000000004", "123456789012345678901234567890"):
            await by_activity(client, service, "batch_write", raw(one_request(number, number)))
        for number in (LOST[0], LOST[3], "1e400", "9" * 5_000, "NaN"):
            with pytest.raises(Exception) as failed:  # noqa: PT011  what the client wraps it in does not matter
                await by_activity(client, service, "batch_write", raw(one_request(f"lost {number[:20]}", number)))
            cause = failed.value.__cause__
            assert isinstance(cause, ApplicationError), cause
            assert "send it as a string" in cause.message
    assert {k: Decimal(v) for k, v in found(postgresql).items()} == {
        "0.30000000000000004": Decimal("0.30000000000000004"),
        "123456789012345678901234567890": Decimal("123456789012345678901234567890"),
    }


async def test_by_parcel_no_number_is_rounded(client: Client, database: TestDatabase) -> None:
    create(database, "json")
    requests = ",".join(one_request(f"r{n}", f"[{number}]") for n, number in enumerate(KEPT))
    async with running(client, database.sink()) as service:
        await by_activity(client, service, "batch_write_many", raw(f'{{"request_id":"p1","requests":[{requests}]}}'))
        lost = one_request("lost", LOST[0])
        with pytest.raises(Exception) as failed:  # noqa: PT011
            await by_activity(client, service, "batch_write_many", raw(f'{{"request_id":"p2","requests":[{lost}]}}'))
    assert "send it as a string" in str(failed.value.__cause__)
    there = found(database)
    assert {n: Decimal(there[f"r{n}"]) for n in range(len(KEPT))} == {n: Decimal(k) for n, k in enumerate(KEPT)}
    assert "lost" not in there


async def test_a_time_may_have_more_digits_than_a_clock(client: Client, sqlite: TestDatabase) -> None:
    """Nanoseconds as JSON: a deadline means no value that is kept."""
    create(sqlite, "integer")
    async with running(client, sqlite.sink()) as service:
        request = one_request("r1", "1", expires_at="later").replace('"later"', "4102444800.123456789123")
        results = await by_signal(client, service, request)
    assert results["r1"]["outcome"] == "written"
