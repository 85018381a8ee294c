"""The log of a process that serves: on standard error, as text for people or as JSON for a collector."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from temporalio import activity, workflow
from temporalio.exceptions import FailureError

from temporal_batching.logs import ATTRIBUTE
from temporal_batching.terminal import printable
from temporal_batching.tracing import tracing

TEXT, JSON = "text", "json"

_OF_WORKFLOW = {"workflow_id": "workflow_id", "run_id": "run_id"}
_OF_ACTIVITY = {"workflow_id": "workflow_id", "workflow_run_id": "run_id", "activity_id": "activity_id"}
"""The SDK's names of ids, and the names that they have here."""

_SHOWN = ("batch_id", "request_id", "request_ids", "workflow_id", "caller_workflow_id")
"""Ids that a line of text ends with, unless its text has them."""


def log_to_stderr(level: str = "info", style: str = TEXT) -> None:
    """Has this process write its log.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``: the least severe lines that are written.
        style: ``text``, or ``json`` for an object in each line.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if style == JSON else TextLines())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # They would append a Python dictionary to each text, whose ids are fields here.
    activity.logger.activity_info_on_message = workflow.logger.workflow_info_on_message = False
    if level != "debug":  # it announces its own shutdown, which the command does already
        logging.getLogger("temporalio.worker").setLevel(logging.WARNING)


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """The ids that a line is about: the library's, and the SDK's for the workflow or the activity that wrote it."""
    found: dict[str, Any] = {}
    for attribute, names in (("temporal_workflow", _OF_WORKFLOW), ("temporal_activity", _OF_ACTIVITY)):
        known = getattr(record, attribute, None) or {}
        found |= {own: known[name] for name, own in names.items() if known.get(name)}
    return found | dict(getattr(record, ATTRIBUTE, None) or {})


class TextLines(logging.Formatter):
    """A failure that was raised on purpose is printed in its own words; a stack is printed for an unexpected one.

    A message is one line: what it quotes can neither begin another one nor move a terminal's cursor.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), keep="\n\t")

    def formatMessage(self, record: logging.LogRecord) -> str:
        text = super().formatMessage(record)
        return printable(" ".join([text, *_missing_ids(text, fields_of(record))]))

    def formatException(self, ei: Any) -> str:
        return f"  {ei[1]}" if isinstance(ei[1], FailureError) else super().formatException(ei)


def _missing_ids(text: str, fields: dict[str, Any]) -> Iterator[str]:
    for name in _SHOWN:
        known = fields.get(name, [])
        ids = known if isinstance(known, list) else [known]
        if not all(re.search(rf"(?<![\w/.-]){re.escape(str(one))}(?![\w/-])", text) for one in ids):
            yield f"{name}={','.join(map(str, ids))}"


class JsonLines(logging.Formatter):
    """Each line one object: ``time``, ``level``, ``logger``, ``message``, then the ids that it is about."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields_of(record),
        }
        traceparent = tracing().traceparent()
        if traceparent is not None:
            _, line["trace_id"], line["span_id"], _ = traceparent.split("-")
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
