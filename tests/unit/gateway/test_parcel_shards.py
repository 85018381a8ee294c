"""A parcel goes to one shard: a gateway refuses one that would break the order of a key."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

import pytest
from temporalio.client import Client
from temporalio.common import RawValue
from temporalio.converter import DataConverter
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from temporal_batching.contract import Refusal, RejectCode
from temporal_batching.errors import ErrorType
from temporal_batching.gateway.activities import Gateway
from temporal_batching.routing import shard_of
from temporal_batching.wire.submission import Submission

SHARDS = 4
KEYS = [f"key-{number}" for number in range(40)]
OWN = [key for key in KEYS if shard_of(key, SHARDS) == shard_of(KEYS[0], SHARDS)]
OTHERS = [key for key in KEYS if key not in OWN]


class Submitter:
    """In the place of a shard's submitter: notes what comes, and answers that it has come."""

    def __init__(self) -> None:
        self.submitted: list[Submission] = []

    async def submit(self, submission: Submission) -> Refusal:
        self.submitted.append(submission)
        return Refusal(0, RejectCode.DATABASE, "it has arrived")


def gateway() -> tuple[Gateway, list[Submitter]]:
    made, submitters = Gateway(cast(Client, None), shards=SHARDS), [Submitter() for _ in range(SHARDS)]
    made._submitters = cast(Any, submitters)
    return made, submitters


def parcel(keys: Sequence[str], **fields: Any) -> RawValue:
    requests = [
        {"request_id": f"r-{n}", "key": key, "records": [{"table": "t", "values": {"n": n}}]}
        for n, key in enumerate(keys)
    ]
    call = {"request_id": "p", "shard_key": OWN[0], "requests": requests, **fields}
    return RawValue(DataConverter.default.payload_converter.to_payload(call))


async def answer(call: RawValue, *, attempt: int = 1) -> tuple[ApplicationError, list[Submitter]]:
    environment = ActivityEnvironment()
    environment.info = dataclasses.replace(environment.info, attempt=attempt)
    made, submitters = gateway()
    with pytest.raises(ApplicationError) as failure:
        await environment.run(made.batch_write_many, call)
    return failure.value, submitters


@pytest.mark.parametrize("keys", [[OWN[0], OTHERS[0]], OTHERS[:1], ["", *OTHERS]], ids=["one", "all", "most"])
async def test_a_parcel_with_keys_of_other_shards_is_refused_before_it_is_submitted(keys: list[str]) -> None:
    error, submitters = await answer(parcel(keys))
    assert (error.type, error.non_retryable) == (ErrorType.REJECTED, True)
    assert error.details[0]["code"] == RejectCode.INVALID
    assert "4 shards" in error.message
    assert not any(submitter.submitted for submitter in submitters)


@pytest.mark.parametrize("keys", [OWN, ["", *OWN], [""] * 3], ids=["keys", "with requests without one", "none"])
async def test_a_parcel_of_one_shard_goes_there(keys: list[str]) -> None:
    error, submitters = await answer(parcel(keys))
    assert error.message == "it has arrived"
    assert [len(one.submitted) for one in submitters] == [n == shard_of(OWN[0], SHARDS) for n in range(SHARDS)]


async def test_a_parcel_that_may_have_been_accepted_is_not_refused_for_its_shards() -> None:
    """The number of shards has changed between two attempts: `rejected` would say that nothing is written."""
    error, _ = await answer(parcel([OWN[0], OTHERS[0]]), attempt=2)
    assert error.message == "it has arrived"
