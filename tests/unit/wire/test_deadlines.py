"""Deadlines, and the time that a request spent in its gateway."""

from __future__ import annotations

from datetime import timedelta

import pytest

from temporal_batching.errors import InvalidRequest
from temporal_batching.wire.deadlines import MAX_WAITED, deadline_after
from temporal_batching.wire.submission import read_submission


@pytest.mark.parametrize(
    ("timeout", "before"), [(120.0, 5.0), (25.0, 5.0), (10.0, 2.0), (1.0, 0.2)], ids=lambda s: f"{s:g}s"
)
def test_a_deadline_lies_a_little_before_the_caller_gives_up(timeout: float, before: float) -> None:
    assert deadline_after(1000.0, timedelta(seconds=timeout)) == pytest.approx(1000.0 + timeout - before)


def test_what_a_gateway_says_of_the_wait_is_believed_within_reason() -> None:
    wire = {"request_id": "r", "records": [{"table": "t", "values": {"n": 1}}]}
    assert [read_submission({**wire, "waited": w}).waited for w in (None, 0, 1.5, 10**400)] == [
        0.0,
        0.0,
        1.5,
        MAX_WAITED,
    ]
    for wrong in (-1, "1", True, float("nan"), float("inf")):
        with pytest.raises(InvalidRequest, match="waited"):
            read_submission({**wire, "waited": wrong})
