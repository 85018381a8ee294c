"""What is packed is zlib's format, whichever library packs it."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_batching.wire import deflate


@given(text=st.binary(max_size=5_000))
def test_zlib_reads_what_is_compressed(text: bytes) -> None:
    assert zlib.decompress(deflate.compress(text)) == text
    assert deflate.expand(deflate.compress(text), len(text)) == text


def test_without_the_faster_library_zlib_compresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deflate, "isal_zlib", None)
    assert deflate.compress(b"abc" * 100) == zlib.compress(b"abc" * 100, deflate.FAST)


def test_the_faster_library_is_used_where_it_is_installed() -> None:
    isal_zlib = pytest.importorskip("isal.isal_zlib", reason="needs the extra speedups")
    assert deflate.isal_zlib is isal_zlib


def test_more_than_is_allowed_is_not_expanded() -> None:
    bomb = deflate.compress(b" " * 10_000_000)
    assert deflate.expand(bomb, 1_000) is None
    assert deflate.expand(deflate.compress(b"abcdef")[:-5], 1_000) is None, "incomplete"
    with pytest.raises(zlib.error):
        deflate.expand(b"no zlib", 1_000)
