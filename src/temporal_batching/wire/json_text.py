"""JSON as text, for the many small values of a batch."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any


def text_writer(encoder: json.JSONEncoder) -> Callable[[Any], str]:
    """What `encoder.encode` does, with what is the same for each value made once.

    `encode` makes CPython's C encoder anew for each call, which is a third of its time for a record of 200 bytes. A
    value that contains itself is a `RecursionError`: nothing is kept to recognise it sooner.

    Args:
        encoder: Writes ASCII, without indentation.
    """
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:  # another Python than CPython
        return encoder.encode
    write = make(
        None,
        encoder.default,
        json.encoder.encode_basestring_ascii,
        None,
        encoder.key_separator,
        encoder.item_separator,
        encoder.sort_keys,
        encoder.skipkeys,
        encoder.allow_nan,
    )
    return lambda value: "".join(write(value, 0))
