"""A record travels with its references and the columns it returns, and a bad one gets a clear answer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_batching.contract import OPERATIONS, Record, Returned, WriteRequest
from temporal_batching.errors import InvalidRequest
from temporal_batching.sinks.ledger import digest
from temporal_batching.wire.encoding import encode_request
from temporal_batching.wire.records import MAX_RETURNING, load_record, read_record
from temporal_batching.wire.submission import read_submission

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)
values = st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.lists(st.integers(), max_size=2)


@st.composite
def requests(draw: st.DrawFn) -> list[Record]:
    records: list[Record] = []
    for number in range(draw(st.integers(1, 4))):
        cells: dict[str, Any] = draw(st.dictionaries(names, values, min_size=1, max_size=4))
        if number:
            for name in draw(st.lists(names, max_size=2)):
                cells[name] = Returned(draw(st.integers(0, number - 1)), draw(names))
        returning = tuple(draw(st.lists(names, unique=True, max_size=3)))
        records.append(Record(draw(names), cells, returning, draw(st.sampled_from(OPERATIONS))))
    return records


@given(requests())
def test_what_was_sent_arrives(records: list[Record]) -> None:
    wire = encode_request(WriteRequest("r", records))
    (request,) = read_submission(wire).write_requests()
    assert list(request.records) == records
    assert digest(request.records) == digest(records)


@given(requests(), requests())
def test_the_digest_tells_writes_apart_and_nothing_else(one: list[Record], other: list[Record]) -> None:
    def written(records: list[Record]) -> list[Any]:
        return [(r.table, r.operation, {n: (type(v).__name__, v) for n, v in r.values.items()}) for r in records]

    assert (digest(one) == digest(other)) == (written(one) == written(other))


def test_a_value_is_never_mistaken_for_a_reference() -> None:
    reference = [Record("a", {"x": 1}), Record("b", {"y": Returned(0, "x")})]
    for value in ([0, "x"], {"record": 0, "column": "x"}, {"references": {"y": [0, "x"]}}):
        plain = [Record("a", {"x": 1}), Record("b", {"y": value})]
        assert digest(plain) != digest(reference)
        (request,) = read_submission(encode_request(WriteRequest("r", plain))).write_requests()
        assert request.records[1].values == {"y": value}


@pytest.mark.parametrize(
    ("wire", "number", "words"),
    [
        ({"table": "t", "values": {}}, 0, "at least one column"),
        ({"table": "t", "values": {}, "references": {"a": [0, "b"]}}, 0, "it is the first, and can refer to none"),
        ({"table": "t", "values": {}, "references": {"a": [1, "b"]}}, 1, "only to an earlier one, 0 to 0"),
        ({"table": "t", "values": {}, "references": {"a": [-1, "b"]}}, 1, "only to an earlier one"),
        ({"table": "t", "values": {}, "references": {"a": [True, "b"]}}, 2, "only to an earlier one"),
        ({"table": "t", "values": {}, "references": {"a": ["0", "b"]}}, 2, "only to an earlier one"),
        ({"table": "t", "values": {}, "references": {"a": [0]}}, 1, "the number of an earlier record, and a column"),
        ({"table": "t", "values": {}, "references": {"a": [0, ""]}}, 1, "a column of a reference is empty"),
        ({"table": "t", "values": {}, "references": ["a"]}, 1, "an object of columns, not a list"),
        ({"table": "t", "values": {"a": 1}, "references": {"a": [0, "b"]}}, 1, "a value and a reference"),
        ({"table": "t", "values": {"a": 1}, "references": 0}, 1, "an object of columns, not a number"),
        ({"table": "t", "values": {"a": 1}, "references": []}, 1, "an object of columns, not a list"),
        ({"table": "t", "values": {"a": 1}, "returning": 0}, 0, "returning is a list, not a number"),
        ({"table": "t", "values": {"a": 1}, "returning": False}, 0, "returning is a list, not a boolean"),
        ({"table": "t", "values": {"a": 1}, "returning": "a"}, 0, "returning is a list, not a string"),
        ({"table": "t", "values": {"a": 1}, "returning": ["a", "a"]}, 0, "names a column twice"),
        ({"table": "t", "values": {"a": 1}, "returning": [7]}, 0, "a column to return is a string, not a number"),
        ({"table": "t", "values": {"a": 1}, "returning": [f"c{n}" for n in range(101)]}, 0, f"at most {MAX_RETURNING}"),
    ],
)
def test_a_bad_record_is_told_what_is_wrong(wire: dict[str, Any], number: int, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        read_record(wire, number)


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        ("upsert", "one of insert, update, delete, not 'upsert'"),
        ("", "not ''"),
        ("Update", "not 'Update'"),
        (1, "not a number"),
        (False, "not a boolean"),
        (["update"], "not a list"),
        ({"update": 1}, "not an object"),
    ],
)
def test_an_operation_that_does_not_exist_is_told_those_that_do(operation: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        read_record({"table": "t", "values": {"a": 1}, "operation": operation}, 0)
    with pytest.raises(InvalidRequest, match=words):
        encode_request(WriteRequest("r", [Record("t", {"a": 1}, operation=operation)]))


def test_the_same_values_with_another_operation_are_another_write() -> None:
    digests = {digest([Record("t", {"a": 1}, operation=operation)]) for operation in OPERATIONS}
    assert len(digests) == 3
    assert digest([Record("t", {"a": 1}, operation="insert")]) == digest([Record("t", {"a": 1})])


@pytest.mark.parametrize("returning", ["id", 7, None])
def test_a_writer_is_told_what_returning_is(returning: Any) -> None:
    with pytest.raises(InvalidRequest, match="returning is a list of columns"):
        encode_request(WriteRequest("r", [Record("t", {"a": 1}, returning)]))


def test_what_says_nothing_more_travels_as_before() -> None:
    wire = encode_request(WriteRequest("r", [Record("t", {"a": 1})]))
    assert wire["records"] == [{"table": "t", "values": {"a": 1}}]
    assert load_record(wire["records"][0]) == Record("t", {"a": 1}, ())


def test_a_reference_that_is_nested_without_end_is_a_bad_record_and_no_other_error() -> None:
    """A shard takes anything from a signal: an error of another type would fail its workflow task."""
    nested: list[Any] = []
    for _ in range(5_000):
        nested = [nested]
    with pytest.raises(InvalidRequest, match="refers to a list"):
        read_record({"table": "t", "values": {}, "references": {"a": [nested, "b"]}}, 1)


@pytest.mark.parametrize(
    "nothing",
    [
        {"references": None, "returning": None, "operation": None},
        {"references": {}, "returning": [], "operation": "insert"},
    ],
)
def test_nothing_asked_is_no_mistake(nothing: dict[str, Any]) -> None:
    assert read_record({"table": "t", "values": {"a": 1}, **nothing}, 0) == {"table": "t", "values": {"a": 1}}
