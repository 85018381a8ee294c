"""What the lines of the log say beside their text: which request, which batch, which shard.

Each line has these ids in the attribute ``batching`` of its record, a dictionary, beside the SDK's own
``temporal_workflow`` and ``temporal_activity``. So a handler of any kind can make fields of them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from temporalio import activity

ATTRIBUTE = "batching"
"""Of a log record: the ids that its line is about, by name."""

MAX_IDS = 5
"""Of the requests that one line is about; how many there are is another field."""

_current: ContextVar[Mapping[str, Any]] = ContextVar("temporal_batching_log_ids", default={})  # noqa: B039  never changed


def about(**ids: Any) -> dict[str, Any]:
    """The argument ``extra`` of a line about these ids. None and empty ones are left out."""
    return {ATTRIBUTE: {name: value for name, value in ids.items() if value not in (None, "")}}


def about_requests(request_ids: Sequence[str], **ids: Any) -> dict[str, Any]:
    """The argument ``extra`` of a line about these requests, the first `MAX_IDS` of them by id."""
    if len(request_ids) < 2:
        return about(request_id="".join(request_ids), **ids)
    return about(request_ids=list(request_ids[:MAX_IDS]), requests=len(request_ids), **ids)


@contextmanager
def lines_about(**ids: Any) -> Iterator[None]:
    """Adds ids to every line that `logger` writes in a block."""
    token = _current.set({**_current.get(), **about(**ids)[ATTRIBUTE]})
    try:
        yield
    finally:
        _current.reset(token)


class _WithIds(logging.LoggerAdapter[Any]):
    """Adds the ids of the block to those of the line."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        extra = dict(kwargs.get("extra") or {})
        extra[ATTRIBUTE] = {**_current.get(), **extra.get(ATTRIBUTE, {})}
        return msg, {**kwargs, "extra": extra}


logger = _WithIds(activity.logger)
"""For code that activities run: the SDK's logger of activities, with the ids of `lines_about`."""
