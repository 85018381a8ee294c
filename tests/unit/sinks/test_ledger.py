"""The ledger's digest: the same for the same records, another for any others, in every release."""

from __future__ import annotations

import hashlib
import json
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_batching.contract import Record
from temporal_batching.sinks.ledger import NotJson, digest

documents: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def test_the_digest_never_changes() -> None:
    # It is in ledgers: another value here would turn every retry across an upgrade into `id_reused`.
    records = [Record("entries", {"b": "caf\u00e9", "a": [1, 2.5, None, True]}), Record("notes", {})]
    assert digest(records) == "3bbc4d245799c87a8da0e84fcaad8379"


@given(st.dictionaries(st.text(max_size=5), documents))
def test_the_order_of_keys_does_not_matter(values: dict[str, Any]) -> None:
    turned = dict(reversed(values.items()))
    assert digest([Record("t", values)]) == digest([Record("t", MappingProxyType(turned))])


@given(st.text(max_size=5), st.dictionaries(st.text(max_size=5), documents | st.floats()))
def test_it_is_the_digest_of_canonical_json(table: str, values: dict[str, Any]) -> None:
    text = json.dumps([[table, values]], sort_keys=True, separators=(",", ":"))
    assert digest([Record(table, values)]) == hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def test_all_else_does() -> None:
    variants = [
        [Record("t", {"a": 1})],
        [Record("t", {"a": "1"})],
        [Record("t", {"a": 1.5})],
        [Record("t", {"a": True})],
        [Record("t", {"a": None})],
        [Record("t", {})],
        [Record("u", {"a": 1})],
        [Record("t", {"a": 1}), Record("t", {"a": 1})],
        [Record("t", {"a": [1, 2]})],
        [Record("t", {"a": [2, 1]})],
        [Record("t", {"a": "\ud800"})],
    ]
    assert len({digest(records) for records in variants}) == len(variants)


def test_what_is_no_json_has_no_digest() -> None:
    circular: list[Any] = []
    circular.append(circular)
    for value in (object(), b"x", {1, 2}, circular):
        with pytest.raises(NotJson):
            digest([Record("t", {"a": value})])
