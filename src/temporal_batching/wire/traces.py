"""Where in its caller's trace a request belongs: a ``traceparent``, as W3C Trace Context has it.

It is no part of what a request asks for: the same request from another span is the same request.
"""

from __future__ import annotations

import re
from typing import Any

_LENGTH = 55
_FORM = re.compile(r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})")
_SAMPLED = 0x01

TRACE_BYTES = 110
"""What a span of a caller adds to a submission: ``"traceparent":"..."``, and when the request arrived."""


def read_traceparent(value: Any) -> str | None:
    """The traceparent in a request; None if there is none, or none that anybody could use.

    One that is malformed is ignored, as W3C says: a mistake in a trace must not fail a write. So is one that is not
    sampled: nobody keeps the span that it names. Of a later version what version ``00`` knows is taken.
    """
    if not isinstance(value, str):
        return None
    found = _FORM.fullmatch(value[:_LENGTH])
    if found is None or found["version"] == "ff":
        return None
    rest = value[_LENGTH : _LENGTH + 1]
    if rest and (found["version"] == "00" or rest != "-"):
        return None
    if not found["trace"].strip("0") or not found["span"].strip("0") or not int(found["flags"], 16) & _SAMPLED:
        return None
    return f"00{value[2:_LENGTH]}"
