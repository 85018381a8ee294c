"""Whatever a caller sends is either read, or refused with what is wrong and what is allowed; never with a crash."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_batching.contract import JsonObject, RejectCode, ReplyTo
from temporal_batching.errors import InvalidRequest
from temporal_batching.policy import MAX_REQUEST_BYTES
from temporal_batching.wire.checks import measure
from temporal_batching.wire.parcels import pack_parcel
from temporal_batching.wire.requests import RequestBody
from temporal_batching.wire.submission import ENVELOPE_BYTES, Submission, read_submission


def record(**values: Any) -> JsonObject:
    return {"table": "entries", "values": values or {"n": 1}}


def request(**changes: Any) -> JsonObject:
    return {"request_id": "r-1", "key": "a", "records": [record()], **changes}


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_a_request_is_read() -> None:
    submission = read_submission(
        request(expires_at=12.5, reply_to={"workflow_id": "w", "run_id": None, "activity_id": "3"})
    )
    assert submission.id == "r-1"
    assert (submission.requests, submission.records, submission.expires_at) == (1, 1, 12.5)
    assert submission.replies == [ReplyTo("w", activity_id="3")]
    assert submission.body == RequestBody("r-1", "a", [record()])
    assert submission.size == measure(submission.body.to_wire()) + ENVELOPE_BYTES


def test_the_key_may_be_missing_null_or_empty() -> None:
    bare = request()
    del bare["key"]
    assert [read_submission(r).keys for r in (bare, request(key=None), request(key=""))] == [(), (), ()]


@pytest.mark.parametrize("form", ["records", "requests", "packed"])
def test_null_in_an_optional_field_is_the_same_as_no_field(form: str) -> None:
    """Many languages write null for what a caller has left out."""
    plain = {"request_id": "p-1", "requests": [request(request_id="r-1")]}
    packed = pack_parcel("p-1", [json.dumps(request())], records=1, keys=("a",)).to_wire()
    wire = {"records": request(), "requests": plain, "packed": packed}[form]
    names = "key shard_key batcher resubmitted expires_at safe_integers reply_to source shards waited"
    forms = "records requests packed digest holds bytes keys"
    empty = dict.fromkeys(f"{names} {forms}".split())
    bare = {"references": None, "returning": None, "operation": None}
    nulls = {**empty, **wire}
    for one in [nulls, *(nulls.get("requests") or [])]:
        one["records"] = [{**bare, **record} for record in one.get("records") or []] or None
    assert read_submission(nulls).to_wire() == read_submission(wire).to_wire()


def test_what_a_batcher_does_not_know_is_left_behind() -> None:
    submission = read_submission(request(colour="red", batcher="main", records=[{**record(), "note": 1}]))
    assert submission.body == RequestBody("r-1", "a", [record()])


def test_a_parcel_is_read_as_one_entry() -> None:
    parcel = [request(request_id=f"r-{n}", records=[record(n=n), record(n=n)]) for n in range(3)]
    submission = read_submission({"request_id": "p-1", "requests": parcel, "reply_to": {"activity_id": "a"}})
    assert (submission.id, submission.requests, submission.records) == ("p-1", 3, 6)
    read = replace(submission, expires_at=7.0).write_requests()
    assert [r.request_id for r in read] == ["r-0", "r-1", "r-2"]
    assert {r.expires_at for r in read} == {7.0}


BAD: list[tuple[Any, str]] = [
    (None, "a write request is a JSON object, not missing or null"),
    (7, "a write request is a JSON object, not a number"),
    (True, "a write request is a JSON object, not a boolean"),
    ("r-1", "a write request is a JSON object, not a string"),
    ([request()], "a write request is a JSON object, not a list"),
    ({}, "request_id is a string, not missing or null"),
    (request(request_id=7), "request_id is a string, not a number"),
    (request(request_id=""), "request_id is empty"),
    (request(request_id="r" * 1_256), "request_id has 1,256 characters: at most 255"),
    (request(key=7), "key is a string, not a number"),
    (request(key="k" * 256), "key has 256 characters: at most 255"),
    ({"request_id": "r-1"}, "records is a list, not missing or null"),
    (request(records={}), "records is a list, not an object"),
    (request(records="x"), "records is a list, not a string"),
    (request(records=[]), "records is empty: at least one is needed"),
    (request(records=[1]), "a record is an object with table and values, not a number"),
    (request(records=[{}]), "table is a string, not missing or null"),
    (request(records=[{"table": "", "values": {"a": 1}}]), "table is empty"),
    (request(records=[{"table": "t" * 256, "values": {"a": 1}}]), "table has 256 characters: at most 255"),
    (request(records=[{"table": "t"}]), "values of a record for 't': a JSON object with at least one column"),
    (request(records=[{"table": "t", "values": {}}]), "a JSON object with at least one column"),
    (request(records=[{"table": "t", "values": [1]}]), "a JSON object with at least one column"),
    (request(records=[{"table": "t", "values": {"": 1}}]), "a column name is empty"),
    (request(records=[{"table": "t", "values": {"c" * 256: 1}}]), "a column name has 256 characters: at most 255"),
    (request(records=[{"table": "t", "values": {7: 1}}]), "a column name is a string, not a number"),
    (request(records=[record(), record(n=float("nan"))]), "NaN or infinite: JSON has no such number; send it as a str"),
    (request(records=[record(n=[{"deep": float("-inf")}])]), "NaN or infinite"),
    (request(records=[record(n=10**5_000)]), "a number has too many digits; send it as a string"),
    (request(records=[record(n={1, 2})]), "a value is not JSON"),
    (request(records=[record(n=nested(100_000))]), "a value is nested too deeply"),
    (request(records=[record(n=nested(101))]), "a value is nested too deeply: at most 100 levels"),
    (request(expires_at=-1), "expires_at is a number of seconds since the epoch, until the year 9999"),
    (request(expires_at=10**30), "expires_at is a number of seconds since the epoch, until the year 9999"),
    (request(expires_at="soon"), "expires_at is a number of seconds since the epoch, not a string"),
    (request(expires_at=True), "expires_at is a number of seconds since the epoch, not a boolean"),
    (request(expires_at=float("nan")), "expires_at is a number of seconds since the epoch, not NaN or infinite"),
    (request(expires_at=-float("inf")), "expires_at is a number of seconds since the epoch, not NaN or infinite"),
    (request(expires_at=float("inf")), "expires_at is a number of seconds since the epoch, not NaN or infinite"),
    (request(reply_to="w"), "reply_to is an object with workflow_id, not a string"),
    (request(reply_to=[None]), "reply_to is an object with workflow_id, not missing or null"),
    (request(reply_to={}), r"reply_to needs workflow_id \(for a signal\) or activity_id"),
    (request(reply_to={"run_id": "r"}), r"reply_to needs workflow_id \(for a signal\) or activity_id"),
    (request(reply_to={"workflow_id": 7}), "reply_to.workflow_id is a string, not a number"),
    (request(reply_to={"workflow_id": ""}), "reply_to.workflow_id is empty"),
    (request(reply_to={"activity_id": "a" * 1001}), "reply_to.activity_id has 1,001 characters: at most 1000"),
    (request(reply_to=[{"activity_id": str(n)} for n in range(33)]), "reply_to has 33 addresses: at most 32"),
    ({"request_id": "p", "requests": None}, "records is a list, not missing or null"),
    ({"request_id": "p", "requests": []}, "requests is empty: at least one is needed"),
    ({"request_id": "p", "requests": [7]}, "a write request is a JSON object, not a number"),
    ({"request_id": "p", "requests": [request(), {"request_id": "r-2"}]}, "records is a list, not missing or null"),
    ({"request_id": "p", "requests": [{"request_id": "q", "requests": [request()]}]}, "records is a list, not missing"),
    ({"requests": [request()]}, "request_id is a string, not missing or null"),
]


@pytest.mark.parametrize(("wire", "message"), BAD, ids=[message[:60] for _, message in BAD])
def test_bad_input_is_refused_with_what_is_wrong_and_what_is_allowed(wire: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as refusal:
        read_submission(wire)
    assert refusal.value.code is RejectCode.INVALID


def test_a_request_too_large_is_refused_with_its_size_and_the_limit() -> None:
    fits = read_submission(request(records=[record(n="x" * (MAX_REQUEST_BYTES - 400))]))
    assert fits.size <= MAX_REQUEST_BYTES
    with pytest.raises(InvalidRequest, match=r"the request has 1,500,\d{3} bytes: at most 1,500,000 fit") as refusal:
        read_submission(request(records=[record(n="x" * MAX_REQUEST_BYTES)]))
    assert refusal.value.code is RejectCode.TOO_LARGE


def test_an_error_never_repeats_a_value() -> None:
    for wire in (request(records=[record(n={"secret"})]), request(records="secret"), request(request_id=["secret"])):
        with pytest.raises(InvalidRequest) as refusal:
            read_submission(wire)
        assert "secret" not in str(refusal.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
near_requests = st.fixed_dictionaries(
    {},
    optional={
        "request_id": st.text(max_size=3) | json_values,
        "key": st.text(max_size=3) | json_values,
        "expires_at": st.floats() | json_values,
        "reply_to": json_values | st.fixed_dictionaries({"workflow_id": st.text(max_size=2)}),
        "records": st.lists(
            json_values | st.fixed_dictionaries({"table": st.just("t") | json_values, "values": json_values})
        ),
        "requests": json_values,
    },
)


@given(json_values | near_requests)
def test_whatever_json_comes_it_is_read_or_refused(wire: Any) -> None:
    try:
        submission = read_submission(wire)
    except InvalidRequest:
        return
    assert submission.id
    assert submission.records >= submission.requests >= 1
    again = read_submission(json.loads(json.dumps(submission.to_wire())))
    assert (again.body, again.replies, again.expires_at) == (submission.body, submission.replies, submission.expires_at)


def test_a_mapping_of_any_kind_is_a_request() -> None:
    class Frozen(Mapping[str, Any]):
        def __getitem__(self, name: str) -> Any:
            return request()[name]

        def __iter__(self) -> Any:
            return iter(request())

        def __len__(self) -> int:
            return len(request())

    assert read_submission(Frozen()).id == "r-1"


def test_the_size_grows_with_those_who_wait() -> None:
    replies = [{"workflow_id": "w"}, {"workflow_id": "v"}]
    assert read_submission(request(reply_to=replies)).size == read_submission(request()).size + ENVELOPE_BYTES


def test_what_travels_is_the_body_its_deadline_and_its_replies() -> None:
    submission = Submission(RequestBody("r", "k", []), 9, 4.0, [ReplyTo("w")])
    assert submission.to_wire() == {
        "request_id": "r",
        "key": "k",
        "records": [],
        "expires_at": 4.0,
        "reply_to": [{"workflow_id": "w"}],
    }


def test_what_comes_again_says_so_as_it_travels() -> None:
    submission = read_submission(request(resubmitted=True))
    assert submission.resubmitted
    assert read_submission(submission.to_wire()).resubmitted
    assert submission.body == read_submission(request()).body
    for other in (None, False, 1, "true"):
        assert not read_submission(request(resubmitted=other)).resubmitted


@pytest.mark.parametrize(
    "wire",
    [
        request(request_id="a\ud800"),
        request(key="\udfff"),
        request(records=[{"table": "t\ud800", "values": {"n": 1}}]),
        request(records=[{"table": "t", "values": {"n\ud800": 1}}]),
        request(reply_to={"workflow_id": "w\ud800"}),
        {"request_id": "p", "requests": [request(request_id="a\ud800")]},
    ],
)
def test_what_no_text_can_be_made_of_names_nothing(wire: JsonObject) -> None:
    """Half of a surrogate pair, legal in JSON, has no UTF-8: neither a failure nor a database can hold it."""
    with pytest.raises(InvalidRequest, match="half of a surrogate pair") as refused:
        read_submission(wire)
    assert refused.value.code is RejectCode.INVALID
    str(refused.value).encode()


def test_a_value_may_hold_whatever_json_holds() -> None:
    assert read_submission(request(records=[record(n="\ud800", document={"\ud800": 1})])).records == 1
