"""What the gateway says about a request that it may have handed over before."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

import pytest
from temporalio.client import Client
from temporalio.testing import ActivityEnvironment

from temporal_batching.gateway import Gateway
from temporal_batching.intake import Entry

CALL = {"request_id": "r", "records": [{"table": "entries", "values": {"n": 1}}]}


@pytest.mark.parametrize(
    ("attempt", "heartbeat_details", "again"),
    [
        (1, [], False),
        (2, [1], False),  # the attempt before was refused outright, and said so
        (2, [], True),  # it ended otherwise: by a crash, or a lost answer
        (3, [1], True),
    ],
)
async def test_a_retry_says_so_unless_every_attempt_was_refused(
    attempt: int, heartbeat_details: Sequence[Any], again: bool
) -> None:
    environment = ActivityEnvironment()
    environment.info = dataclasses.replace(environment.info, attempt=attempt, heartbeat_details=heartbeat_details)
    gateway = Gateway(cast(Client, None))  # reading needs no server

    async def read() -> Entry:
        return gateway._read(dict(CALL))

    assert (await environment.run(read)).again is again
