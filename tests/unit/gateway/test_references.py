"""A parcel that a program packed goes to its shard by reference, and the gateway does not look into it."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any, cast

import pytest
from temporalio.activity import _CompleteAsyncError
from temporalio.client import Client
from temporalio.common import RawValue
from temporalio.converter import DataConverter
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from temporal_batching.contents import ContentStore
from temporal_batching.contract import JsonObject, Refusal, RejectCode
from temporal_batching.errors import ErrorType
from temporal_batching.gateway.activities import Gateway
from temporal_batching.gateway.submitter import MAX_SUBMISSION_BYTES
from temporal_batching.routing import shard_of
from temporal_batching.wire.parcels import PackedParcel, ParcelReference, ParcelSource, pack_parcel
from temporal_batching.wire.submission import Submission
from tests.unit.gateway.test_gateway import Submitter

ONE = '{"request_id":"r","key":"","records":[{"table":"t","values":{"n":1}}]}'


class Shard:
    """In the place of a shard's submitter: notes what comes, and what the store holds by then."""

    def __init__(self, store: ContentStore | None, refusal: Refusal | None = None) -> None:
        self.submitted: list[Submission] = []
        self.kept: list[int] = []
        self._store, self._refusal = store, refusal

    async def submit(self, submission: Submission) -> Refusal | None:
        self.submitted.append(submission)
        self.kept.append(len(self._store) if self._store is not None else 0)
        return self._refusal


def packed(*keys: str, **fields: Any) -> JsonObject:
    made = pack_parcel("p", [ONE] * 3, records=3, keys=keys)
    return {**made.to_wire(), "shard_key": "s", **fields}


async def call(
    wire: JsonObject,
    *,
    store: ContentStore | None = None,
    refusal: Refusal | None = None,
    shards: int = 1,
    attempt: int = 1,
    workflow: bool = False,
    activity: str = "batch_write_many",
) -> Shard:
    gateway, shard = Gateway(cast(Client, None), shards=shards, contents=store), Shard(store, refusal)
    gateway._submitters = cast(Any, [shard] * shards)
    environment = ActivityEnvironment()
    environment.info = dataclasses.replace(
        environment.info,
        workflow_id="w" if workflow else None,
        workflow_run_id="w-run" if workflow else None,
        activity_id="a",
        activity_run_id="a-run",
        attempt=attempt,
        schedule_to_close_timeout=None,
    )
    sent = RawValue(DataConverter.default.payload_converter.to_payload(wire))
    try:
        await environment.run(getattr(gateway, activity), sent)
    except _CompleteAsyncError:
        assert refusal is None
    return shard


async def test_a_programs_parcel_goes_by_reference_to_the_input_of_its_activity() -> None:
    (submission,) = (await call(packed("k"))).submitted
    assert isinstance(submission.body, ParcelReference)
    assert submission.body.source == ParcelSource("a", "a-run")
    assert (submission.requests, submission.records, submission.keys) == (3, 3, ("k",))
    assert "packed" not in submission.to_wire()


async def test_it_is_not_looked_into() -> None:
    """What is in it is the flush's to check: here it is no JSON at all."""
    (submission,) = (await call(pack_parcel("p", ["nonsense"], records=1, keys=()).to_wire())).submitted
    assert isinstance(submission.body, ParcelReference)


async def test_a_workflows_parcel_goes_with_its_content() -> None:
    """Its input lies in the history of its caller, where no flush looks for it."""
    (submission,) = (await call(packed("k"), workflow=True)).submitted
    assert isinstance(submission.body, PackedParcel)


async def test_the_process_has_the_content_before_the_shard_has_the_reference() -> None:
    store = ContentStore()
    shard = await call(packed(), store=store)
    assert shard.kept == [1]
    assert store.get(packed()["digest"]) == packed()["packed"]


@pytest.mark.parametrize("code", [RejectCode.TOO_LARGE, RejectCode.OVERLOADED])
async def test_the_process_lets_go_of_what_no_shard_has_taken(code: RejectCode) -> None:
    store = ContentStore()
    with pytest.raises(ApplicationError):
        await call(packed(), store=store, refusal=Refusal(0, code, "no"))
    assert not len(store)


async def test_another_content_than_the_announced_one_is_refused_at_the_door() -> None:
    with pytest.raises(ApplicationError, match="its digest is another") as refused:
        await call(packed(digest="0" * 64))
    assert (refused.value.type, refused.value.non_retryable) == (ErrorType.REJECTED, True)


@pytest.mark.parametrize("field", [{"source": ["other", "run"]}, {"shards": 3}], ids=["source", "shards"])
async def test_only_a_gateway_refers_to_a_content(field: JsonObject) -> None:
    with pytest.raises(ApplicationError, match="only the gateway refers to it"):
        await call(packed(**field))


async def test_a_single_write_is_no_parcel() -> None:
    with pytest.raises(ApplicationError, match="batch_write_many"):
        await call(packed(), activity="batch_write")


SHARDS = 4
OWN = [key for key in map(str, range(200)) if shard_of(key, SHARDS) == shard_of("s", SHARDS)]
OTHERS = [key for key in map(str, range(200)) if key not in OWN]


async def test_named_keys_of_other_shards_are_refused_at_the_door() -> None:
    with pytest.raises(ApplicationError, match="4 shards"):
        await call(packed(OWN[0], OTHERS[0]), shards=SHARDS)
    assert (await call(packed(OWN[0]), shards=SHARDS)).submitted


async def test_keys_that_are_many_are_left_to_the_flush_with_the_number_of_shards() -> None:
    (submission,) = (await call(packed(keys=None), shards=SHARDS)).submitted
    assert isinstance(submission.body, ParcelReference)
    assert submission.body.announced.shards == SHARDS


async def test_of_a_parcel_that_may_have_been_accepted_no_keys_are_compared() -> None:
    """The number of shards may have changed since: to refuse it would say that nothing of it is written."""
    (submission,) = (await call(packed(keys=None), shards=SHARDS, attempt=2)).submitted
    assert isinstance(submission.body, ParcelReference)
    assert submission.body.announced.shards == 0


async def test_references_travel_by_what_they_weigh() -> None:
    """A hundred parcels of any size are one update."""
    submitter = Submitter(gather=3600, enough=100)
    large = pack_parcel("p", ["x" * 700_000], records=1, keys=())
    assert large.announced.size > MAX_SUBMISSION_BYTES
    made = [Submission(large, large.announced.size).by_reference(ParcelSource(str(n), "r")) for n in range(100)]
    await asyncio.gather(*map(submitter.submit, made))
    assert [len(update) for update in submitter.sent] == [100]
