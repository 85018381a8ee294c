"""The demo judges by the audit: whatever it finds is a problem of the run."""

from __future__ import annotations

from typing import Any, cast

import pytest
from temporalio.client import Client, WorkflowExecutionCount

from temporal_batching.audit import AuditReport, Violation
from temporal_batching.cli.demo import audit as demo
from temporal_batching.settings import load

BOOKED = {"P-1": {"ok": True}, "P-2": {"ok": True}}
VIOLATION = Violation("applied twice", "P-1", "why")
HOLDS = AuditReport(workflows=2, requests=2, written=2, rows=2)


class Listed:
    """A client that lists the run's workflows at the second look."""

    def __init__(self) -> None:
        self.looks = 0

    async def count_workflows(self, query: str) -> WorkflowExecutionCount:
        assert query == "TaskQueue = 'payments' AND ExecutionStatus != 'Running'"
        self.looks += 1
        return WorkflowExecutionCount(min(2, self.looks), [])


async def problems(
    monkeypatch: pytest.MonkeyPatch, report: AuditReport, results: dict[str, Any], *, own_database: bool
) -> list[str]:
    asked: dict[str, Any] = {}

    async def audit(_: Client, database: str, **options: Any) -> AuditReport:
        asked.update(options, database=database)
        return report

    monkeypatch.setattr(demo, "audit", audit)
    settings, client = load({"sink": "sqlite:///p.db", "name": "demo"}), Listed()
    found = await demo.audit_run(
        cast(Client, client), settings, task_queue="payments", results=results, own_database=own_database
    )
    assert asked["database"] == "sqlite:///p.db"
    assert (asked["batcher"], asked["query"], asked["complete"]) == ("demo", "TaskQueue = 'payments'", own_database)
    assert client.looks == 2
    assert found.report is report
    return found.problems


@pytest.mark.parametrize(
    ("report", "results", "own_database", "expected"),
    [
        (HOLDS, BOOKED, True, []),
        (
            AuditReport(workflows=2, broken={"applied twice": 1}, violations=[VIOLATION]),
            BOOKED,
            True,
            ["applied twice: P-1: why"],
        ),
        (AuditReport(workflows=1), BOOKED, True, ["only 1 of 2 workflows could be audited"]),
        (
            HOLDS,
            {**BOOKED, "P-2": {"ok": False, "error_type": "WriteRejected"}},
            True,
            ["P-2: not booked (WriteRejected)"],
        ),
        (AuditReport(workflows=2, unchecked={"entries: why": 3}), BOOKED, True, ["not checked: 3 x entries: why"]),
        # In a database of the user's own there is more than the demo knows of.
        (AuditReport(workflows=2, unchecked={"ledger ids of other batchers": 3}), BOOKED, False, []),
    ],
)
async def test_what_the_audit_finds_is_a_problem(
    monkeypatch: pytest.MonkeyPatch,
    report: AuditReport,
    results: dict[str, Any],
    own_database: bool,
    expected: list[str],
) -> None:
    assert await problems(monkeypatch, report, results, own_database=own_database) == expected
