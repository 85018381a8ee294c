"""Cutting requests into parcels loses none, keeps their order, and keeps the limits."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.exceptions import ApplicationError

from temporal_batching import BatchPolicy, Confirmation, Record, WriteRejected, WriteRequest
from temporal_batching.contract import Outcome, OutcomeKind, ParcelReceipt, RejectCode
from temporal_batching.errors import ErrorType
from temporal_batching.routing import shard_of
from temporal_batching.wire.checks import measure
from temporal_batching.wire.encoding import encode_request
from temporal_batching.wire.submission import read_written_request
from temporal_batching.writers.parcels import (
    PARCEL_BYTES,
    PARCEL_ENVELOPE_BYTES,
    ManyWrites,
    OutgoingParcel,
    ParcelFailure,
    ParcelLimits,
    PlacedRequest,
    WriteResult,
    numbered_ids,
)

SECOND = timedelta(seconds=1)


def request(number: int, *, key: str = "", records: int = 1, padding: int = 0) -> WriteRequest:
    return WriteRequest(f"r-{number}", [Record("entries", {"n": number, "text": "ü" * padding})] * records, key)


def many(requests: Any) -> ManyWrites:
    ids = iter(range(1_000_000))
    return ManyWrites(requests, new_id=lambda: f"new-{next(ids)}")


def placed(requests: list[WriteRequest], position: int) -> PlacedRequest:
    return PlacedRequest(position, *read_written_request(encode_request(requests[position]), set()))


requests_of_any_kind = st.lists(
    st.builds(
        lambda key, records, padding: (key, records, padding),
        st.sampled_from(["", "", "a", "b", "c", "d"]),
        st.integers(1, 5),
        st.integers(0, 60),
    ),
    max_size=40,
).map(lambda made: [request(n, key=k, records=r, padding=p) for n, (k, r, p) in enumerate(made)])

any_limits = st.builds(ParcelLimits, st.integers(1, 8), st.integers(1, 12), st.integers(400, 4_000))


@given(requests=requests_of_any_kind, limits=any_limits, shards=st.integers(1, 4))
def test_every_request_is_in_one_parcel_of_its_shard_within_the_limits(
    requests: list[WriteRequest], limits: ParcelLimits, shards: int
) -> None:
    parcels = list(many(requests).parcels(limits, shards))
    positions = [position for parcel in parcels for position in parcel.positions]
    assert sorted(positions) == list(range(len(requests)))
    by_shard: dict[int, list[OutgoingParcel]] = {}
    for parcel in parcels:
        given = [requests[position] for position in parcel.positions]
        assert parcel.request_ids == [one.request_id for one in given]
        (shard,) = {shard_of(one.key or one.request_id, shards) for one in given}
        assert shard == shard_of(parcel.shard_key, shards)
        by_shard.setdefault(shard, []).append(parcel)
        assert len(given) <= limits.requests
        if len(given) > 1:
            assert sum(len(one.records) for one in given) == parcel.records <= limits.records
            wire = parcel.to_wire("parcel-" + 36 * "0", "main")
            assert measure(wire) <= parcel.size <= limits.size
    for of_shard in by_shard.values():
        in_order = [position for parcel in of_shard for position in parcel.positions]
        assert in_order == sorted(in_order), "a key's requests are all in here"
        for one, following in pairwise(of_shard):
            assert not one.fits(placed(requests, following.positions[0]), limits), "a parcel is as full as it may be"


@given(requests=requests_of_any_kind.filter(lambda made: len(made) > 1))
def test_halves_have_the_same_requests_in_order(requests: list[WriteRequest]) -> None:
    (parcel,) = many(requests).parcels(ParcelLimits(1_000, 1_000, 1_000_000), 1)
    first, second = parcel.halves()
    assert min(len(first), len(second)) > 0
    assert (first.positions + second.positions, first.texts + second.texts) == (parcel.positions, parcel.texts)
    assert first.request_ids + second.request_ids == parcel.request_ids
    assert first.own_keys + second.own_keys == parcel.own_keys
    assert first.records + second.records == parcel.records
    assert max(first.size, second.size) < parcel.size
    assert first.size + second.size == parcel.size + PARCEL_ENVELOPE_BYTES


def test_each_half_asks_for_what_its_own_requests_ask_for() -> None:
    plain, asking = Record("entries", {"n": 1}), Record("entries", {"n": 1}, returning=["id"])
    (parcel,) = many([plain, asking, plain, plain, asking, asking]).parcels(ParcelLimits(9, 9, 9_000), 1)
    first, second = parcel.halves()
    assert (parcel.asking, first.asking, second.asking) == ({1, 4, 5}, {1}, {1, 2})


def test_ids_of_one_call_are_different_and_have_what_is_unique_of_it() -> None:
    unique = iter(["c0ffee", "another"])
    new_id = numbered_ids(lambda: next(unique))
    assert [new_id() for _ in range(3)] == ["c0ffee-0", "c0ffee-1", "c0ffee-2"]


def test_parcels_are_given_out_while_requests_are_read() -> None:
    """A workflow that writes very much encodes a portion at a time."""
    drawn: list[int] = []

    def draw() -> str:
        drawn.append(1)
        return f"new-{len(drawn)}"

    writes = ManyWrites([Record("entries", {"n": n}) for n in range(1_000)], new_id=draw)
    next(writes.parcels(ParcelLimits.of(BatchPolicy()), 1))
    assert len(drawn) == 101


def test_a_parcel_is_a_batch_of_the_policy_but_no_larger_than_a_parcel_may_be() -> None:
    limits = ParcelLimits.of(BatchPolicy(max_batch_size=7, max_batch_records=9, max_batch_bytes=2_000))
    assert limits == ParcelLimits(7, 9, 2_000)
    assert ParcelLimits.of(BatchPolicy()) == ParcelLimits(100, 1_000, PARCEL_BYTES)


def test_what_no_batch_can_take_has_its_result_and_is_in_no_parcel() -> None:
    wrong: list[Any] = [Record("", {"n": 1}), 7, WriteRequest("r", []), Record("entries", {"n": float("nan")})]
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    writes = many([*wrong, Record("entries", {"n": deep}), request(5)])
    (parcel,) = writes.parcels(ParcelLimits.of(BatchPolicy()), 1)
    assert parcel.positions == [5]
    writes.settle(parcel, ParcelReceipt("batch", 1, 0))
    assert [_kind(result) for result in writes.results] == ["WriteRejected"] * 5 + ["written"]
    assert [result.request_id for result in writes.results] == ["new-0", "", "r", "new-1", "new-2", "r-5"]
    assert "WriteRequest or a Record, not int" in cast(WriteRejected, writes.results[1]).message


@pytest.mark.parametrize("given", [7, None, Record("entries", {"n": 1})])
def test_what_is_no_list_is_rejected(given: Any) -> None:
    with pytest.raises(WriteRejected, match="a list of WriteRequest and Record"):
        many(given)


def test_a_list_that_its_caller_changes_meanwhile_is_written_as_it_was() -> None:
    requests = [request(n) for n in range(300)]
    writes = many(requests)
    parcels = writes.parcels(ParcelLimits.of(BatchPolicy()), 1)
    first = next(parcels)
    requests.clear()
    assert sum(len(parcel) for parcel in [first, *parcels]) == 300


def test_a_receipt_has_an_outcome_for_each() -> None:
    writes = many([request(n) for n in range(3)])
    (parcel,) = writes.parcels(ParcelLimits.of(BatchPolicy()), 1)
    others = {"1": Outcome(OutcomeKind.REJECTED, RejectCode.CONSTRAINT, "no")}
    writes.settle(parcel, ParcelReceipt("b/1", 3, 2, None, others))
    assert writes.results == [
        Confirmation("r-0", OutcomeKind.WRITTEN, batch_id="b/1", batch_size=3, shard=2),
        Confirmation(
            "r-1", OutcomeKind.REJECTED, batch_id="b/1", batch_size=3, shard=2, code=RejectCode.CONSTRAINT, reason="no"
        ),
        Confirmation("r-2", OutcomeKind.WRITTEN, batch_id="b/1", batch_size=3, shard=2),
    ]


def _failure(error_type: ErrorType, detail: Any) -> ParcelFailure:
    return ParcelFailure(ApplicationError("no", detail, type=error_type), SECOND)


@pytest.mark.parametrize(
    ("failure", "kind", "too_large"),
    [
        (_failure(ErrorType.REJECTED, {"outcome": "rejected", "code": "too_large"}), "rejected", True),
        (_failure(ErrorType.REJECTED, {"outcome": "rejected", "code": "withdrawn"}), "rejected", False),
        (_failure(ErrorType.EXPIRED, {"outcome": "expired"}), "expired", False),
        (
            ParcelFailure(ApplicationError("busy", True, type=ErrorType.BATCHER_BUSY), SECOND),
            "WriteNotSubmitted",
            False,
        ),
        (ParcelFailure(None, SECOND), "WriteNotConfirmed", False),
    ],
    ids=["too large", "withdrawn", "expired", "busy", "unknown"],
)
def test_a_parcel_that_failed_as_a_whole_failed_for_each(failure: ParcelFailure, kind: str, too_large: bool) -> None:
    writes = many([request(n) for n in range(2)])
    (parcel,) = writes.parcels(ParcelLimits.of(BatchPolicy()), 1)
    assert failure.is_too_large(parcel) is too_large
    writes.settle(parcel, failure)
    assert [_kind(result) for result in writes.results] == [kind] * 2
    assert [result.request_id for result in writes.results] == ["r-0", "r-1"]


def test_a_summary_has_tables_and_numbers_and_no_values() -> None:
    writes = many([Record("orders", {"secret": "s"}), Record("lines", {"secret": "s"}), Record("orders", {"n": 1})])
    (parcel,) = writes.parcels(ParcelLimits.of(BatchPolicy()), 1)
    assert parcel.summary() == "3 requests to orders, lines"


def _kind(result: WriteResult) -> str:
    return result.outcome if isinstance(result, Confirmation) else type(result).__name__
