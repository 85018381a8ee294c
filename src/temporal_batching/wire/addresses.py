"""Reply addresses, and the callers behind them, read from what comes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from temporal_batching.contract import ReplyTo, Withdrawal
from temporal_batching.errors import InvalidRequest
from temporal_batching.wire.checks import check_text, json_type
from temporal_batching.wire.safe_integers import SAFE_INTEGERS, read_safe_integers

MAX_REPLIES = 32
"""Callers that may wait for one request id at the same time."""

MAX_WORKFLOW_ID = 1_000
"""Characters of a workflow id, a run id or an activity id: Temporal's own limit."""

_FIELDS = ("workflow_id", "run_id", "activity_id", "from_run_id")
"""What names a caller."""


def read_replies(wire: Any) -> list[ReplyTo]:
    """Reads ``reply_to``: missing, one address, or a list of them. An address that comes twice counts once.

    Raises:
        InvalidRequest: With what is wrong and what is allowed.
    """
    if wire is None:
        return []
    replies = list(dict.fromkeys(_read_reply(one) for one in (wire if isinstance(wire, list) else [wire])))
    if len(replies) > MAX_REPLIES:
        raise InvalidRequest(f"reply_to has {len(replies)} addresses: at most {MAX_REPLIES} may wait for one request")
    return replies


def _read_reply(wire: Any) -> ReplyTo:
    if not isinstance(wire, Mapping):
        raise InvalidRequest(f"reply_to is an object with workflow_id, not {json_type(wire)}")
    known = {
        name: check_text(wire[name], f"reply_to.{name}", most=MAX_WORKFLOW_ID)
        for name in _FIELDS
        if wire.get(name) is not None
    }
    reply = ReplyTo(**known, safe_integers=read_safe_integers(wire))
    if reply.workflow_id is None and reply.activity_id is None:
        raise InvalidRequest("reply_to needs workflow_id (for a signal) or activity_id (to complete an activity)")
    return reply


def load_replies(wire: Sequence[Mapping[str, Any]]) -> list[ReplyTo]:
    """The addresses that a `ReplyTo.to_wire` of ours described; not checked again."""
    return [_load_reply(one.get) for one in wire]


def _load_reply(get: Callable[..., Any]) -> ReplyTo:
    return ReplyTo(get("workflow_id"), get("run_id"), get("activity_id"), get("from_run_id"), get(SAFE_INTEGERS, False))


def read_withdrawal(args: Sequence[Any]) -> Withdrawal:
    """Reads what a withdrawal brings: a request id, the caller's workflow id, its run id; the last two may be missing.

    Raises:
        InvalidRequest: With what is wrong and what is allowed.
    """
    if not 1 <= len(args) <= 3:
        raise InvalidRequest("a withdrawal is a request id, a workflow id and a run id")
    request_id = check_text(args[0], "the request id of a withdrawal")
    workflow_id, run_id = (
        None if value is None else check_text(value, f"the {what} of a withdrawal", most=MAX_WORKFLOW_ID)
        for value, what in zip([*args[1:], None, None][:2], ("workflow id", "run id"), strict=True)
    )
    return Withdrawal(request_id, workflow_id, run_id)
