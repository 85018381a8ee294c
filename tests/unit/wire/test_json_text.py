"""The text of a value is the one that Python's own encoder writes: digests and sizes depend on it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_batching.wire.json_text import text_writer

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(value=values, sort_keys=st.booleans())
def test_the_text_is_that_of_the_encoder(value: Any, sort_keys: bool) -> None:
    encoder = json.JSONEncoder(separators=(",", ":"), allow_nan=False, sort_keys=sort_keys)
    assert text_writer(encoder)(value) == encoder.encode(value)


def test_what_the_encoder_refuses_is_refused() -> None:
    write = text_writer(json.JSONEncoder(allow_nan=False))
    for value, error in ((float("nan"), ValueError), ({"a": object()}, TypeError), (10**5_000, ValueError)):
        with pytest.raises(error):
            write(value)


def test_a_value_that_contains_itself_ends_as_one_that_is_nested_too_deeply() -> None:
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(RecursionError):
        text_writer(json.JSONEncoder())(circle)


def test_what_the_encoder_does_not_know_is_converted_by_its_default() -> None:
    assert text_writer(json.JSONEncoder(default=repr))([1 + 2j]) == '["(1+2j)"]'


def test_without_a_c_encoder_python_writes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json.encoder, "c_make_encoder", None)
    assert text_writer(json.JSONEncoder(separators=(",", ":")))({"a": ["é", 1.5]}) == '{"a":["\\u00e9",1.5]}'
