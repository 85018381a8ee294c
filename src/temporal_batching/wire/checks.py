"""Checks of what comes from outside: text, lists, nesting, numbers. Each raises `InvalidRequest` with what is allowed.

One set for every way in: the writer in a workflow, the program, the gateway, the shard.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from temporal_batching.errors import InvalidRequest
from temporal_batching.wire.decoding import InexactNumber
from temporal_batching.wire.json_text import text_writer

MAX_NAME = 255
"""Characters of a request id, a key, a table or a column: what a database index and a search box can hold."""

MAX_DEPTH = 100
"""Levels of nesting in a request. A request also passes through the encoders of the flush and of the next run, which
see it a few levels deeper: at Python's own limit they would fail where no caller can be notified."""


def check_text(value: Any, what: str, *, empty: bool = False, most: int = MAX_NAME) -> str:
    """A string that every database and UTF-8 can hold.

    Raises:
        InvalidRequest: It is no string, empty, too long, or holds half of a surrogate pair.
    """
    if type(value) is str and 0 < len(value) <= most and value.isascii():  # nearly every one
        return value
    if not isinstance(value, str):
        raise InvalidRequest(f"{what} is a string, not {json_type(value)}")
    if not value and not empty:
        raise InvalidRequest(f"{what} is empty")
    if len(value) > most:
        raise InvalidRequest(f"{what} has {len(value):,} characters: at most {most}")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise InvalidRequest(f"{what} holds half of a surrogate pair, which UTF-8 cannot encode")
    return value


def check_list(value: Any, what: str) -> Sequence[Any]:
    """A list with at least one element.

    Raises:
        InvalidRequest: It is no list, or empty.
    """
    if not isinstance(value, list | tuple):
        raise InvalidRequest(f"{what} is a list, not {json_type(value)}")
    if not value:
        raise InvalidRequest(f"{what} is empty: at least one is needed")
    return value


def write_content(value: Any) -> str:
    """A value as JSON, which can hold it on all its way: it has at most `MAX_DEPTH` levels of objects and lists.

    Returns:
        ASCII without spaces; `measure` counts its characters.

    Raises:
        InvalidRequest: As `measure`, or it is nested deeper.
    """
    text = _dump(value)
    if text.count("[") + text.count("{") > MAX_DEPTH:  # brackets in strings count too: few enough of both are certain
        _check_depth(value)
    return text


def check_content(value: Any) -> int:
    """A value that JSON can hold on all its way: see `write_content`.

    Returns:
        Its bytes, as `measure` counts them.
    """
    return len(write_content(value))


def _check_depth(value: Any) -> None:
    layer = [value]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for one in layer:
            inner = one.values() if isinstance(one, Mapping) else one if isinstance(one, list | tuple) else ()
            below.extend(v for v in inner if isinstance(v, Mapping | list | tuple))
        if not below:
            return
        layer = below
    raise InvalidRequest(f"a value is nested too deeply: at most {MAX_DEPTH} levels")


def measure(value: Any) -> int:
    """Bytes of JSON as Temporal's default converter writes it (ASCII, no spaces).

    Raises:
        InvalidRequest: For NaN and infinities, which JSON does not know; for nesting too deep, and numbers too long to
            write or not read exactly.
    """
    return len(_dump(value))


def _dump(value: Any) -> str:
    try:
        return _write(value)
    except ValueError as err:
        if "integer string conversion" in str(err):  # Python's limit, 4,300 digits
            raise InvalidRequest("a number has too many digits; send it as a string") from None
        raise InvalidRequest("a value is NaN or infinite: JSON has no such number; send it as a string") from None
    except RecursionError:
        raise InvalidRequest("a value is nested too deeply") from None
    except TypeError as err:
        raise InvalidRequest(f"a value is not JSON ({err})") from None


def _refuse(value: Any) -> Any:
    if isinstance(value, InexactNumber):
        raise InvalidRequest(
            "a number has more digits than a JSON number keeps on its way, or is too large or too small; "
            "send it as a string"
        )
    raise TypeError(f"{type(value).__name__} is not JSON")


_write = text_writer(json.JSONEncoder(allow_nan=False, separators=(",", ":"), default=_refuse))


def json_type(value: Any) -> str:
    """The type as a person who writes JSON calls it; never the value."""
    if value is None:
        return "missing or null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float | InexactNumber):
        return "a number"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, list | tuple):
        return "a list"
    return "an object" if isinstance(value, Mapping) else type(value).__name__
