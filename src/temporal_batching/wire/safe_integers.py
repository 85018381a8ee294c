"""Returned values for callers whose numbers are doubles: whole numbers that those would round travel as strings.

JavaScript reads every JSON number as a double, as does Go into ``any``: the generated key 9007199254740993 would arrive
as 9007199254740992, without an error. A caller says so with ``safe_integers`` in its request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from temporal_batching.errors import InvalidRequest
from temporal_batching.wire.checks import json_type

SAFE_INTEGERS = "safe_integers"
"""The field of a request, and of a reply address."""

MAX_SAFE_INTEGER = 2**53 - 1
"""The largest whole number that a double tells apart from its neighbours."""


def read_safe_integers(wire: Mapping[str, Any]) -> bool:
    """Whether a caller asks for it.

    Raises:
        InvalidRequest: The field is neither true nor false.
    """
    asked = wire.get(SAFE_INTEGERS)
    if asked is None or isinstance(asked, bool):
        return bool(asked)
    raise InvalidRequest(f"{SAFE_INTEGERS} is true or false, not {json_type(asked)}")


def with_safe_integers(value: Any) -> Any:
    """A JSON value in which each whole number that a double cannot hold for certain is a string of its digits."""
    if type(value) is int:
        return value if -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER else str(value)
    if isinstance(value, Mapping):
        return {name: with_safe_integers(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [with_safe_integers(inner) for inner in value]
    return value
