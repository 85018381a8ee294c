"""Compresses and expands what is packed: zlib's format, by the fastest library that is installed.

Any reader of zlib's format reads what either writes, so nothing has to be agreed on. The extra ``speedups`` installs
the faster one.
"""

from __future__ import annotations

import contextlib
import importlib
import zlib
from typing import Any

isal_zlib: Any = None
with contextlib.suppress(ImportError):
    isal_zlib = importlib.import_module("isal.isal_zlib")

FAST = 1
"""The level: rows are alike, so more effort saves little."""


def compress(text: bytes) -> bytes:
    """Compresses it."""
    return zlib.compress(text, FAST) if isal_zlib is None else bytes(isal_zlib.compress(text, FAST))


def expand(packed: bytes, most: int) -> bytes | None:
    """Expands it; None if it is incomplete, or has more bytes than that.

    Raises:
        zlib.error: It is damaged.
    """
    expanding = zlib.decompressobj()
    text = expanding.decompress(packed, most + 1)
    return text if expanding.eof and len(text) <= most else None
