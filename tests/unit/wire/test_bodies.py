"""Two bodies with one id are the same if they ask for the same writes."""

from __future__ import annotations

from typing import Any

import pytest

from temporal_batching.contract import JsonObject
from temporal_batching.wire.bodies import same_content
from temporal_batching.wire.submission import read_submission


def record(**values: Any) -> JsonObject:
    return {"table": "entries", "values": values or {"n": 1}}


def request(**changes: Any) -> JsonObject:
    return {"request_id": "r-1", "key": "a", "records": [record()], **changes}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"n": 1}, {"n": 1}, True),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ({"n": 1}, {"n": 2}, False),
        ({"n": 1}, {"n": True}, False),
        ({"n": 1}, {"n": 1.0}, False),
        ({"n": 0.0}, {"n": -0.0}, False),
        ({"n": None}, {"m": None}, False),
    ],
)
def test_records_are_the_same_as_the_ledgers_digest_sees_them(one: Any, other: Any, same: bool) -> None:
    bodies = [read_submission(request(records=[record(**values)])).body for values in (one, other)]
    parcels = [read_submission({"request_id": "p", "requests": [body.to_wire()]}).body for body in bodies]
    assert same_content(*bodies) is same
    assert same_content(*parcels) is same


def test_the_key_does_not_make_a_request_another() -> None:
    assert same_content(read_submission(request(key="a")).body, read_submission(request(key="b")).body)
