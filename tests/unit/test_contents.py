"""What a process keeps of parcels that it took in is bounded, in bytes and in time; what is not there is read."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pytest
from temporalio.client import Client
from temporalio.common import RawValue
from temporalio.converter import DataConverter
from temporalio.service import RPCError, RPCStatusCode

from temporal_batching.contents import ContentStore, Missing, read_parcel_of
from temporal_batching.wire.parcels import ParcelSource
from tests.support.waiting import assert_eventually

SOURCE = ParcelSource("a", "r")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_the_oldest_go_where_there_is_no_room() -> None:
    store = ContentStore(max_bytes=10)
    for name in ("a", "b", "c"):
        store.put(name, name * 4)
    assert [store.get(name) for name in ("a", "b", "c")] == [None, "bbbb", "cccc"]
    store.put("d", "d" * 11)
    assert (store.get("d"), store.bytes, len(store)) == (None, 8, 2)


async def test_what_comes_again_counts_once_and_is_as_good_as_new() -> None:
    store = ContentStore(max_bytes=10)
    for name in ("a", "b", "a", "c"):
        store.put(name, name * 4)
    assert [store.get(name) is not None for name in ("a", "b", "c")] == [True, False, True]
    store.discard("a")
    store.discard("a")
    assert (store.bytes, len(store)) == (4, 1)


async def test_what_nobody_flushes_goes_by_its_age() -> None:
    clock = Clock()
    store = ContentStore(max_age=timedelta(seconds=10), clock=clock)
    store.put("a", "aaaa")
    clock.now = 6.0
    store.put("b", "bbbb")
    clock.now = 10.0
    store.sweep()
    assert (store.get("a"), store.get("b"), store.bytes) == (None, "bbbb", 4)


async def test_a_process_that_does_nothing_else_lets_go_of_everything() -> None:
    store = ContentStore(max_age=timedelta(milliseconds=20))
    store.put("a", "aaaa")

    async def empty() -> None:
        assert not len(store)

    await assert_eventually(empty, within=5)
    assert store.bytes == 0
    assert store._timer is None, "and waits for nothing"


def client(*, error: Exception | None = None, payload: Any = None, converter: DataConverter | None = None) -> Client:
    described = MagicMock()
    described.input = AsyncMock(return_value=None if payload is None else [RawValue(payload)])
    if error is not None and not isinstance(error, RPCError):
        described.input.side_effect = error
    handle = MagicMock()
    handle.describe = AsyncMock(return_value=described, side_effect=error if isinstance(error, RPCError) else None)
    made = MagicMock(spec=Client)
    made.get_activity_handle.return_value = handle
    made.data_converter = converter or DataConverter.default
    return made


def payload(value: Any) -> Any:
    return DataConverter.default.payload_converter.to_payload(value)


async def test_a_parcel_is_read_from_the_input_of_its_activity() -> None:
    assert await read_parcel_of(client(payload=payload({"packed": "x"})), SOURCE) == "x"


@pytest.mark.parametrize("value", [{"requests": []}, {"packed": 1}, ["x"], "x"])
async def test_another_input_is_no_content_and_so_not_what_was_announced(value: Any) -> None:
    assert await read_parcel_of(client(payload=payload(value)), SOURCE) == ""


@pytest.mark.parametrize(
    ("status", "gone"),
    [
        (RPCStatusCode.NOT_FOUND, True),
        (RPCStatusCode.UNAVAILABLE, False),
        (RPCStatusCode.DEADLINE_EXCEEDED, False),
        (RPCStatusCode.RESOURCE_EXHAUSTED, False),
        (RPCStatusCode.PERMISSION_DENIED, False),
    ],
)
async def test_only_what_temporal_does_not_know_is_gone(status: RPCStatusCode, gone: bool) -> None:
    found = await read_parcel_of(client(error=RPCError("no", status, b"")), SOURCE)
    assert isinstance(found, Missing)
    assert found.gone is gone


async def test_what_this_worker_cannot_decode_another_one_may() -> None:
    unknown = payload({"packed": "x"})
    unknown.metadata["encoding"] = b"binary/encrypted"
    for broken in (client(error=ValueError("a secret")), client(), client(payload=unknown)):
        found = await read_parcel_of(broken, SOURCE)
        assert isinstance(found, Missing)
        assert not found.gone
        assert "a secret" not in found.reason
