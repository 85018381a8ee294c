"""Every limit has a range; what is out of it is refused with its name, its value and what is allowed."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_batching.errors import InvalidPolicy
from temporal_batching.policy import MAX_REQUEST_BYTES, BatchPolicy

WHOLE: dict[str, tuple[int, int]] = {
    "max_batch_size": (1, 10_000),
    "max_batch_records": (1, 10_000),
    "max_batch_bytes": (1024, MAX_REQUEST_BYTES),
    "max_pending": (1, 100_000),
    "max_pending_bytes": (1_048_576, 64 * 1_048_576),
    "max_in_flight": (1, 16),
}
SECONDS: dict[str, tuple[float, float]] = {
    "linger": (0, 3600),
    "confirmation_timeout": (1, 86_400),
    "flush_timeout": (1, 600),
    "retry_initial": (0.01, 30),
    "retry_max": (1, 600),
    "deadline_margin": (0, 60),
}


def test_every_limit_is_tested_here() -> None:
    assert {f.name for f in fields(BatchPolicy)} == set(WHOLE) | set(SECONDS)


def test_the_defaults_are_those_of_the_design() -> None:
    policy = BatchPolicy()
    assert (policy.max_batch_size, policy.max_batch_records) == (100, 1_000)
    assert (policy.max_pending, policy.max_in_flight) == (10_000, 4)
    assert policy.max_batch_bytes == 1_048_576
    assert (policy.linger, policy.confirmation_timeout) == (timedelta(seconds=20), timedelta(minutes=2))


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_limit_takes_its_bounds(name: str) -> None:
    for value in WHOLE[name]:
        other: dict[str, Any] = {"max_pending_bytes": 64 * 1_048_576} if name == "max_batch_bytes" else {}
        assert getattr(BatchPolicy(**{**other, name: value}), name) == value


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("where", ["below", "above", "float", "bool", "text", "none"])
def test_a_whole_limit_out_of_range_is_refused(name: str, where: str) -> None:
    low, high = WHOLE[name]
    value = {"below": low - 1, "above": high + 1, "float": float(low), "bool": True, "text": "9", "none": None}[where]
    with pytest.raises(InvalidPolicy) as refusal:
        BatchPolicy(**{name: value})  # type: ignore[arg-type]
    assert str(refusal.value) == f"{name} {value!r}: a whole number from {low:,} to {high:,}"


@pytest.mark.parametrize("name", SECONDS)
def test_a_duration_takes_its_bounds(name: str) -> None:
    for value in SECONDS[name]:
        assert getattr(BatchPolicy(**{name: timedelta(seconds=value)}), name) == timedelta(seconds=value)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SECONDS)
def test_a_duration_out_of_range_is_refused(name: str) -> None:
    low, high = SECONDS[name]
    for seconds in (low - 0.001, (60 if name == "retry_initial" else high) + 0.001):
        with pytest.raises(InvalidPolicy, match=rf"^{name} \S+ s: from {low:g} to \S+ seconds$"):
            BatchPolicy(**{name: timedelta(seconds=seconds)})  # type: ignore[arg-type]
    with pytest.raises(InvalidPolicy, match=f"^{name} 5: a timedelta$"):
        BatchPolicy(**{name: 5})  # type: ignore[arg-type]


def test_limits_that_depend_on_each_other_are_checked_together() -> None:
    with pytest.raises(InvalidPolicy, match="max_pending_bytes 2048: a whole number from 4,096"):
        BatchPolicy(max_batch_bytes=4096, max_pending_bytes=2048)
    with pytest.raises(InvalidPolicy, match="retry_max 1 s: from 2 to 600 seconds"):
        BatchPolicy(retry_initial=timedelta(seconds=2), retry_max=timedelta(seconds=1))


@given(
    st.builds(
        BatchPolicy,
        max_batch_size=st.integers(*WHOLE["max_batch_size"]),
        max_pending=st.integers(*WHOLE["max_pending"]),
        linger=st.timedeltas(timedelta(0), timedelta(hours=1)),
        confirmation_timeout=st.timedeltas(timedelta(seconds=1), timedelta(days=1)),
        deadline_margin=st.timedeltas(timedelta(0), timedelta(minutes=1)),
    )
)
def test_a_policy_survives_the_wire(policy: BatchPolicy) -> None:
    assert BatchPolicy.from_wire(json.loads(json.dumps(policy.to_wire()))) == policy


def test_names_missing_on_the_wire_keep_their_defaults() -> None:
    assert BatchPolicy.from_wire({"linger": 0, "max_batch_size": 7}) == replace(
        BatchPolicy(), linger=timedelta(0), max_batch_size=7
    )


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        ({"max_batch": 1}, r"unknown limits \['max_batch'\]: the limits are \["),
        ([], "a policy is an object of limits, not list"),
        (None, "a policy is an object of limits, not NoneType"),
        ({"linger": "5"}, "linger '5': a number of seconds"),
        ({"linger": True}, "linger True: a number of seconds"),
        ({"linger": None}, "linger None: a number of seconds"),
        ({"linger": float("nan")}, "linger nan: a number of seconds"),
        ({"linger": float("inf")}, "linger inf: a number of seconds"),
        ({"linger": 1e300}, r"linger 1e\+300: a number of seconds"),
        ({"linger": -1}, "linger -1 s: from 0 to 3600 seconds"),
        ({"max_pending": 0}, "max_pending 0: a whole number from 1 to 100,000"),
    ],
)
def test_a_bad_policy_on_the_wire_is_refused_with_what_is_allowed(wire: Any, message: str) -> None:
    with pytest.raises(InvalidPolicy, match=message):
        BatchPolicy.from_wire(wire)
