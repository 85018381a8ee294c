"""What Temporal's Web UI shows of a workflow beside its history: current details, made when somebody looks.

A workflow's current details are a part of the answer to a query of the SDK's own, so they add nothing to history. What
is shown here is made for each such query. A string that is set in every workflow task would cost CPU in each of them,
and would hardly ever be read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from temporalio import workflow

METADATA_QUERY = "__temporal_workflow_metadata"
"""The query that the Web UI and ``temporal workflow metadata`` send. The SDK answers it for every workflow."""

_BACKTICKS = re.compile("`+")


def show_details(make: Callable[[], str]) -> None:
    """Shows details of the current workflow run, below those that the workflow itself sets.

    Those of `workflow.set_current_details` stay as they are. Without effect in an SDK that does not answer the query.

    Args:
        make: Makes the details, as Markdown. Called for each query, where a workflow may only be read.
    """
    answer = workflow.get_query_handler(METADATA_QUERY)
    if answer is None:
        return
    own: Callable[[], Any] = answer

    def with_details() -> Any:
        metadata = own()
        metadata.current_details = "\n\n".join(filter(None, [metadata.current_details.rstrip(), make()]))
        return metadata

    workflow.set_query_handler(METADATA_QUERY, with_details)


def code(text: str) -> str:
    """Text from elsewhere as Markdown that shows it as it is: on one line, without markup, HTML or links.

    Not for the cell of a table: the Web UI ends a cell with a ``|`` wherever it stands.
    """
    shown = "".join(c if c.isprintable() else " " for c in text).strip()
    fence = "`" * (1 + max(map(len, _BACKTICKS.findall(shown)), default=0))
    # A space inside where the text begins or ends with a backtick; Markdown takes it away again.
    pad = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{pad}{shown}{pad}{fence}" if shown else ""


def moment(seconds: float) -> str:
    """A time as people read it, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def workflow_path(namespace: str, workflow_id: str) -> str:
    """Where the Web UI has the latest run of a workflow: a path on its own host."""
    return f"/namespaces/{quote(namespace, safe='')}/workflows/{quote(workflow_id, safe='')}"


def details_path(namespace: str, workflow_id: str, run_id: str) -> str:
    """Where the Web UI has the details of a run."""
    return f"{workflow_path(namespace, workflow_id)}/{quote(run_id, safe='')}/user-metadata"


def workflows_path(namespace: str, prefix: str) -> str:
    """Where the Web UI lists the open workflows whose ids begin like this."""
    query = f'`WorkflowId` STARTS_WITH {json.dumps(prefix)} AND `ExecutionStatus`="Running"'
    return f"/namespaces/{quote(namespace, safe='')}/workflows?query={quote(query, safe='')}"
