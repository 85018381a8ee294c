"""The batcher's worker of another version: its shards give other commands, so it can replay no run of this checkout.

``python -m tests.faults.version`` with the settings of ``temporal-batching worker`` as environment.
"""

from __future__ import annotations

import sys

from temporalio import workflow

from temporal_batching.batcher.workflow import BatcherWorkflow
from temporal_batching.cli.app import app

_set_timer = BatcherWorkflow._set_timer


def _with_another_command(self: BatcherWorkflow, now: float) -> None:
    """In every run one command more, before the first timer."""
    if not hasattr(self, "_of_another_version"):
        self._of_another_version = True  # type: ignore[attr-defined]
        workflow.upsert_memo({"of": "another version"})
    _set_timer(self, now)


if __name__ == "__main__":
    BatcherWorkflow._set_timer = _with_another_command  # type: ignore[method-assign]
    sys.argv = ["temporal-batching", "worker"]
    app()
