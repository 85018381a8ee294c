"""What a load needs: every figure follows from the load, and moves the way it should."""

from __future__ import annotations

import dataclasses
import re
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from temporal_batching import BatchPolicy
from temporal_batching.batcher.workflow import MAX_SIGNALS_PER_RUN, MAX_UPDATES_PER_RUN
from temporal_batching.contract import Trigger
from temporal_batching.errors import InvalidLoad
from temporal_batching.sizing import Estimate, Load, Surroundings, estimate
from temporal_batching.sizing.flow import SUGGESTED_BYTES, SUGGESTED_EVENTS, Operations, shard_flow
from temporal_batching.sizing.load import fill_of
from temporal_batching.sizing.needs import FULL

SECOND = timedelta(seconds=1)

LOADS = st.builds(
    Load,
    rate=st.floats(0.01, 20_000),
    record_bytes=st.integers(2, 20_000),
    records=st.integers(1, 20),
    via=st.sampled_from(["activity", "signal", "write_many"]),
    gateway=st.sampled_from(["batcher", "local"]),
    gateways=st.integers(1, 50),
)
POLICIES = st.builds(
    BatchPolicy,
    max_batch_size=st.integers(1, 2_000),
    linger=st.floats(0, 60).map(lambda seconds: timedelta(seconds=seconds)),
    max_in_flight=st.integers(1, 16),
)
SURROUNDINGS = st.builds(
    Surroundings,
    database=st.floats(0, 1).map(lambda seconds: timedelta(seconds=seconds)),
    call=st.floats(0.001, 0.1).map(lambda seconds: timedelta(seconds=seconds)),
    task=st.floats(0.001, 0.1).map(lambda seconds: timedelta(seconds=seconds)),
)


def sized(load: Load, policy: BatchPolicy, surroundings: Surroundings, shards: int | None = None) -> Estimate:
    try:
        return estimate(load, policy, shards=shards, surroundings=surroundings)
    except InvalidLoad:
        assume(False)
        raise


@settings(max_examples=60)
@given(LOADS, POLICIES, SURROUNDINGS, st.integers(1, 64))
def test_what_comes_in_goes_out(load: Load, policy: BatchPolicy, surroundings: Surroundings, shards: int) -> None:
    one = sized(load, policy, surroundings, shards)
    assert one.transactions * one.requests_per_batch == pytest.approx(load.rate)
    assert 1 <= round(one.requests_per_batch, 9) <= policy.max_batch_size
    sent = one.signals if load.via == "signal" else one.updates
    assert 0 < sent <= load.rate * 1.000001
    assert one.shards == shards
    assert all(value >= 0 for value in dataclasses.asdict(one).values() if isinstance(value, float))


@settings(max_examples=60)
@given(LOADS, POLICIES, SURROUNDINGS)
def test_as_many_shards_as_are_needed_bear_the_load_and_one_less_does_not(
    load: Load, policy: BatchPolicy, surroundings: Surroundings
) -> None:
    one = sized(load, policy, surroundings)
    assert one.bears
    assert one.shards == one.shards_needed
    assert max(use.used for use in one.uses) <= FULL
    if one.shards > 1:
        less = sized(load, policy, surroundings, one.shards - 1)
        assert not less.bears
        assert less.uses[0].used > FULL
        assert less.uses[0].limit == one.decided_by


@settings(max_examples=60)
@given(LOADS, POLICIES, SURROUNDINGS, st.integers(1, 8))
def test_a_run_ends_within_each_of_its_limits(
    load: Load, policy: BatchPolicy, surroundings: Surroundings, shards: int
) -> None:
    try:
        flow = shard_flow(load, policy, surroundings, shards)
    except InvalidLoad:
        assume(False)
    steady = dataclasses.replace(flow.per_second, runs=0.0)
    reached = {
        "events": steady.events / SUGGESTED_EVENTS * flow.run_seconds,
        "bytes": steady.bytes / SUGGESTED_BYTES * flow.run_seconds,
        "updates": steady.updates / MAX_UPDATES_PER_RUN * flow.run_seconds,
        "signals": steady.signals / MAX_SIGNALS_PER_RUN * flow.run_seconds,
    }
    assert reached[flow.run_ends_by] == pytest.approx(1)
    assert max(reached.values()) <= 1.000001


@settings(max_examples=60)
@given(LOADS, POLICIES, SURROUNDINGS, st.integers(1, 8), st.floats(1.1, 10))
def test_more_writes_take_more_history_and_fuller_batches(
    load: Load, policy: BatchPolicy, surroundings: Surroundings, shards: int, factor: float
) -> None:
    less = sized(load, policy, surroundings, shards)
    more = sized(dataclasses.replace(load, rate=load.rate * factor), policy, surroundings, shards)
    assert more.history_bytes > less.history_bytes
    assert more.requests_per_batch >= less.requests_per_batch * 0.999999
    assert more.actions > less.actions
    assert more.outage_seconds < less.outage_seconds


@settings(max_examples=60)
@given(LOADS, POLICIES, SURROUNDINGS, st.floats(1, 60))
def test_a_longer_linger_never_takes_more_transactions(
    load: Load, policy: BatchPolicy, surroundings: Surroundings, more: float
) -> None:
    longer = dataclasses.replace(policy, linger=policy.linger + timedelta(seconds=more))
    here, there = (sized(load, each, surroundings, 1).transactions for each in (policy, longer))
    assert there <= here * 1.000001


@settings(max_examples=60)
@given(LOADS, POLICIES, SURROUNDINGS)
def test_a_write_by_activity_costs_its_activity_and_a_part_of_the_shards_actions(
    load: Load, policy: BatchPolicy, surroundings: Surroundings
) -> None:
    one = sized(dataclasses.replace(load, via="activity"), policy, surroundings, 1)
    assert one.actions_direct == load.rate
    assert one.actions > one.actions_direct + one.updates + one.transactions


@pytest.mark.parametrize(
    ("load", "policy", "trigger", "requests"),
    [
        (Load(rate=50, record_bytes=300), BatchPolicy(linger=SECOND), Trigger.LINGER, 47),
        (Load(rate=500, record_bytes=300), BatchPolicy(linger=SECOND), Trigger.COUNT, 100),
        (Load(rate=500, record_bytes=100_000), BatchPolicy(linger=SECOND), Trigger.BYTES, 10),
        (Load(rate=500, record_bytes=300, records=20), BatchPolicy(linger=SECOND), Trigger.COUNT, 50),
        (Load(rate=1, record_bytes=300), BatchPolicy(linger=timedelta(0)), Trigger.LINGER, 1),
        (Load(rate=9_000, record_bytes=300, via="write_many"), BatchPolicy(max_batch_size=500), Trigger.COUNT, 500),
    ],
)
def test_a_batch_is_as_full_as_its_trigger_says(
    load: Load, policy: BatchPolicy, trigger: Trigger, requests: int
) -> None:
    one = estimate(load, policy, shards=1)
    assert (one.trigger, round(one.requests_per_batch)) == (trigger, requests)


@pytest.mark.parametrize(
    ("gateways", "linger", "each"),
    [(1, SECOND, 11), (4, SECOND, 3.5), (1, 20 * SECOND, 100), (1, timedelta(0), 4)],
    ids=["a tenth of the linger", "shared by gateways", "a full batch", "what comes during a round trip"],
)
def test_an_update_has_what_its_gateway_gathers(gateways: int, linger: timedelta, each: float) -> None:
    one = estimate(Load(rate=100, record_bytes=300, gateways=gateways), BatchPolicy(linger=linger), shards=1)
    assert 100 / one.updates == pytest.approx(each)


def test_without_linger_a_batch_is_what_arrives_during_a_flush() -> None:
    load, policy = Load(rate=500, record_bytes=300), BatchPolicy(linger=timedelta(0))
    near, far = (
        estimate(load, policy, shards=1, surroundings=Surroundings(database=timedelta(milliseconds=each)))
        for each in (20, 100)
    )
    assert near.requests_per_batch == pytest.approx(500 * (0.02 + 0.02 + near.requests_per_batch * 0.01 / 32))
    assert far.transactions == pytest.approx(near.transactions / 3, rel=0.01)
    assert estimate(load, policy).shards == 1


def test_batches_that_are_not_full_overlap_only_after_a_while() -> None:
    load, far = Load(rate=50, record_bytes=300), Surroundings(database=timedelta(seconds=4))
    one, four = (
        estimate(load, BatchPolicy(linger=timedelta(0), max_in_flight=most), shards=1, surroundings=far)
        for most in (1, 4)
    )
    assert (one.requests_per_batch, one.trigger) == (100, Trigger.COUNT)
    assert four.requests_per_batch == pytest.approx(50 * 1.01, rel=0.02)
    near = estimate(load, BatchPolicy(linger=timedelta(0), max_in_flight=4), shards=1)
    assert near.requests_per_batch == estimate(load, BatchPolicy(linger=timedelta(0)), shards=1).requests_per_batch


def test_a_far_database_decides_where_it_is_the_limit() -> None:
    load, far = Load(rate=300, record_bytes=10), Surroundings(database=timedelta(milliseconds=900))
    one = estimate(load, BatchPolicy(linger=SECOND, max_in_flight=1), surroundings=far)
    assert one.decided_by == "flush time"
    overlapping = estimate(load, BatchPolicy(linger=SECOND, max_in_flight=4), surroundings=far)
    assert overlapping.shards < one.shards


def test_operations_add_up_to_events_and_actions() -> None:
    done = Operations(tasks=3, updates=2, signals=5, timers=1, flushes=1, runs=1, content_bytes=1_000)
    assert done.events == 9 + 4 + 5 + 2 + 3 + 2
    assert done.actions == 2 + 5 + 1 + 1 + 1
    assert done.bytes > 1_000


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rate": 0}, "rate 0: writes a second, more than 0 and at most 10,000,000"),
        ({"rate": float("nan")}, "rate nan: writes a second"),
        ({"rate": True}, "rate True: writes a second"),
        ({"record_bytes": 1}, "record_bytes 1: a whole number from 2 to 1,500,000"),
        ({"record_bytes": 3.5}, "record_bytes 3.5: a whole number"),
        ({"records": 0}, "records 0: a whole number from 1 to 10,000"),
        ({"gateways": 0}, "gateways 0: a whole number from 1 to 10,000"),
        ({"via": "mail"}, "via 'mail': one of activity, signal, write_many"),
        ({"gateway": "moon"}, "gateway 'moon': one of batcher, local"),
    ],
)
def test_a_figure_out_of_its_range_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidLoad, match=f"^{re.escape(message)}") as raised:
        Load(**{"rate": 1, "record_bytes": 300, **values})
    assert raised.value.argument == next(iter(values))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("database", timedelta(seconds=-1), "-1 s: from 0, at most 600 seconds"),
        ("task", timedelta(0), "0 s: more than 0, at most 10 seconds"),
        ("call", 3, "3: a timedelta"),
    ],
)
def test_a_duration_out_of_its_range_is_named(name: str, value: Any, message: str) -> None:
    with pytest.raises(InvalidLoad, match=f"^{name} {re.escape(message)}$"):
        Surroundings(**{name: value})


def test_a_load_that_no_batch_and_no_number_of_shards_bears_is_refused() -> None:
    with pytest.raises(InvalidLoad, match="record_bytes a request has 1,200,306 bytes in all, and a batch holds"):
        estimate(Load(rate=1, record_bytes=1_200_000))
    with pytest.raises(InvalidLoad, match="records a request has 2,000 records, and a batch holds 1,000"):
        estimate(Load(rate=1, record_bytes=10, records=2_000))
    with pytest.raises(InvalidLoad, match="1,024 shards do not bear it, because of the run length"):
        estimate(Load(rate=9_000_000, record_bytes=300))
    with pytest.raises(InvalidLoad, match="shards 0: a whole number from 1 to 1,024"):
        estimate(Load(rate=1, record_bytes=300), shards=0)


def test_a_parcel_is_as_large_as_its_limits_allow() -> None:
    policy = BatchPolicy(max_batch_size=1_000, max_batch_records=10_000)
    small, large = (fill_of(Load(rate=1, record_bytes=each, via="write_many"), policy) for each in (200, 4_000))
    assert (small.requests, small.batch) == (1_000, 1)
    assert (large.requests, large.batch) == (194, 1)
    assert large.size <= 800_000
