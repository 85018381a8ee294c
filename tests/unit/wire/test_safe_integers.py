"""No caller whose numbers are doubles gets another number than the database has: larger ones come as strings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_batching.contract import Confirmation, Delivery, OutcomeKind, ReplyTo
from temporal_batching.errors import InvalidRequest
from temporal_batching.flush.delivery import _to_wire
from temporal_batching.sinks.ledger import returned_mark
from temporal_batching.wire.deliveries import delivery_to_wire, load_delivery
from temporal_batching.wire.safe_integers import MAX_SAFE_INTEGER, with_safe_integers
from temporal_batching.wire.submission import load_submission, read_submission

REQUEST = {"request_id": "r", "records": [{"table": "t", "values": {"n": 1}}], "reply_to": {"workflow_id": "w"}}

WHOLE = st.one_of(st.integers(), st.integers(-(2**54), 2**54), st.integers(2**53 - 3, 2**53 + 3))
LEAVES = st.one_of(
    st.none(), st.booleans(), WHOLE, st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=3)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
)


def same(sent: Any, read: Any) -> bool:
    """Whether a reader that has doubles alone, and reads a string as a number where one stood, has what was sent."""
    if isinstance(sent, dict):
        return isinstance(read, dict) and list(sent) == list(read) and all(same(sent[k], read[k]) for k in sent)
    if isinstance(sent, list):
        return isinstance(read, list) and len(sent) == len(read) and all(map(same, sent, read))
    if type(sent) is int:
        return int(read) == sent
    return type(sent) is type(read) and bool(sent == read)


def leaves(value: Any) -> Iterator[Any]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    if inner is None:
        yield value
    else:
        for one in inner:
            yield from leaves(one)


@given(VALUES)
def test_a_reader_with_doubles_alone_has_every_whole_number(value: Any) -> None:
    text = json.dumps(with_safe_integers(value))
    assert same(value, json.loads(text, parse_int=float))


@given(VALUES)
def test_nothing_else_is_changed_and_the_audit_sees_no_difference(value: Any) -> None:
    safe = with_safe_integers(value)
    assert returned_mark([value]) == returned_mark([safe])
    assert with_safe_integers(safe) == safe
    if not any(type(leaf) is int and abs(leaf) > MAX_SAFE_INTEGER for leaf in leaves(value)):
        assert safe == value


@pytest.mark.parametrize("asked", [True, False, None])
def test_a_caller_that_asks_for_it_and_no_other_gets_strings(asked: bool | None) -> None:
    request = REQUEST if asked is None else {**REQUEST, "safe_integers": asked}
    (reply_to,) = load_submission(read_submission(request).to_wire()).replies
    assert reply_to == ReplyTo("w", safe_integers=bool(asked))
    returned: Any = [{"id": 2**53 + 1}, None]
    delivery = Delivery(reply_to, Confirmation("r", OutcomeKind.WRITTEN, returned=returned))
    # Also when its shard has kept it until it could be sent.
    for one in (delivery, load_delivery(delivery_to_wire(delivery))):
        assert _to_wire(one)["returned"] == ([{"id": "9007199254740993"}, None] if asked else returned)


@pytest.mark.parametrize("asked", ["true", 1, []])
def test_neither_true_nor_false_is_refused(asked: Any) -> None:
    with pytest.raises(InvalidRequest, match="safe_integers is true or false, not a"):
        read_submission({**REQUEST, "safe_integers": asked})
