"""A key finds the same shard forever, in every language: the vectors of `docs/reference/` hold it."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from temporal_batching.errors import InvalidPolicy
from temporal_batching.routing import (
    MAX_ENDPOINT,
    MAX_SHARDS,
    batcher_workflow_id,
    check_endpoint,
    check_name,
    check_shards,
    shard_of,
)

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "docs" / "reference" / "routing-vectors.json").read_text(encoding="utf-8")
)["vectors"]


def test_the_published_vectors_hold() -> None:
    assert [shard_of(v["key"], v["shards"]) for v in VECTORS] == [v["shard"] for v in VECTORS]


def test_the_published_vectors_cover_what_another_language_may_get_wrong() -> None:
    keys = {v["key"] for v in VECTORS}
    assert len(VECTORS) >= 10
    assert "" in keys
    assert any(len(key) >= 255 for key in keys)
    assert any(ord(max(key)) > 0xFFFF for key in keys if key)
    assert {v["shards"] for v in VECTORS} >= {1, 2, 7, 1024}
    # Beyond 2^63, where a signed 64-bit remainder would come out negative.
    assert any(sha256(key.encode()).digest()[0] >= 0x80 for key in keys)


def test_a_lone_surrogate_is_routed_too() -> None:
    assert 0 <= shard_of("\ud800", 7) < 7


def test_one_shard_serves_every_key() -> None:
    assert {shard_of(str(n), 1) for n in range(100)} == {0}


def test_keys_spread_over_the_shards() -> None:
    loads = [0] * 8
    for n in range(8_000):
        loads[shard_of(f"account-{n}", 8)] += 1
    assert min(loads) > 850
    assert max(loads) < 1_150


def test_a_shards_workflow_id_names_batcher_and_shard() -> None:
    assert batcher_workflow_id("main", 3) == "batcher-main-3"


@pytest.mark.parametrize("name", ["a", "main", "a-b_c", "0", "x" * 63])
def test_a_good_name_passes(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "Main", "-a", "a-", "a b", "a/b", "x" * 64, "é", "a\n", None, 7])
def test_a_bad_name_is_refused_with_what_is_allowed(name: Any) -> None:
    with pytest.raises(InvalidPolicy, match="1 to 63 lower-case letters"):
        check_name(name)


@pytest.mark.parametrize("shards", [1, 2, MAX_SHARDS])
def test_a_good_number_of_shards_passes(shards: int) -> None:
    assert check_shards(shards) == shards


@pytest.mark.parametrize("shards", [0, -1, MAX_SHARDS + 1, 1.0, True, "2", None])
def test_a_bad_number_of_shards_is_refused_with_what_is_allowed(shards: Any) -> None:
    with pytest.raises(InvalidPolicy, match="a whole number from 1 to 1024"):
        check_shards(shards)


@pytest.mark.parametrize("name", ["ab", "Batcher-main-2", "x" * MAX_ENDPOINT])
def test_a_good_endpoint_passes(name: str) -> None:
    assert check_endpoint(name) == name


@pytest.mark.parametrize("name", ["", "a", "2b", "-ab", "ab-", "a b", "a_b", "a/b", "é-b", "ab\n", "x" * 201, None, 7])
def test_a_bad_endpoint_is_refused_with_what_is_allowed(name: Any) -> None:
    with pytest.raises(InvalidPolicy, match="2 to 200 letters, digits and '-'"):
        check_endpoint(name)
