"""What a sender reads when a value does not fit: what was expected, what came, short and in one line."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_batching.sinks.sql import values
from temporal_batching.sinks.sql.reasons import MAX_REASON, short_reason
from temporal_batching.sinks.sql.values import MAX_SHOWN, BadValue, show


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("zzz", '"zzz"'),
        (True, "true"),
        (None, "null"),
        (1.5, "1.5"),
        (math.nan, "NaN"),
        ("x" * 38, f'"{"x" * 38}"'),
        ("x" * 39, f'"{"x" * 36}..."'),
        ("\x1b" * 39, '"' + "\\u001b" * 6 + '..."'),
        (10**50, "1" + "0" * 36 + "..."),
        pytest.param(10**5000, "a number", id="an integer that Python does not write"),
        ({"a": 1}, "an object"),
        ([1], "a list"),
    ],
)
def test_a_value_is_shown_as_json(value: Any, shown: str) -> None:
    assert show(value) == shown


@given(st.text() | st.integers() | st.floats() | st.text("\x00\U0001f600\ud800"))
def test_a_value_is_shown_short_and_closed(value: Any) -> None:
    shown = show(value)
    assert len(shown) <= MAX_SHOWN + 1
    assert shown.isprintable()
    if isinstance(value, str):
        assert value.startswith(json.loads(shown).removesuffix("..."))


def told(read: Any, value: Any) -> str:
    with pytest.raises(BadValue) as bad:
        read(value)
    return bad.value.message(value)


def test_what_was_expected_and_what_came() -> None:
    assert told(values.uuid, "zzz") == 'expected a UUID as a string, got "zzz"'
    assert told(values.text_without_nul, "a\x00") == (
        'expected a string, got "a\\u0000": this database cannot store the character U+0000'
    )
    assert told(values.one_of(["sad", "ok"]), "glad") == 'expected one of "sad", "ok", got "glad"'
    assert BadValue("a list", element='"x"').message(["x"]) == 'expected a list, got "x" in it'


@given(st.text())
def test_a_reason_is_one_short_line(words: str) -> None:
    reason = short_reason(words)
    assert len(reason) <= MAX_REASON
    assert reason.splitlines() in ([], [reason])
