"""What an audit found: the report that callers of `audit` get, and what collects it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from temporal_batching.audit.facts import ReadCounts
from temporal_batching.audit.rules import Violation

MAX_KEPT = 10_000
"""Violations that a report holds one by one; the others are counted."""


@dataclass(frozen=True, kw_only=True)
class AuditReport:
    """What an audit read, and every promise that it found broken.

    Attributes:
        workflows: Histories of callers that were read, one for each run.
        activities: Activities that programs started.
        requests: Request ids that were judged.
        results: How calls ended, counted: ``{"written": 20, "rejected": 1}``.
        written: Request ids of those judged that the ledger holds as written.
        records: Records that were looked up.
        rows: Rows that were found for the records of written requests.
        outside: Ids of this batcher in the ledger for which there is no call.
        broken: Violations by rule.
        violations: The violations one by one, the first 10,000 of them.
        unchecked: What could not be checked, and how often.
    """

    workflows: int = 0
    activities: int = 0
    requests: int = 0
    results: Mapping[str, int] = field(default_factory=dict)
    written: int = 0
    records: int = 0
    rows: int = 0
    outside: int = 0
    broken: Mapping[str, int] = field(default_factory=dict)
    violations: Sequence[Violation] = ()
    unchecked: Mapping[str, int] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether every promise that could be checked was kept."""
        return not self.broken


@dataclass
class Findings:
    """What the check of the database has found so far; see `AuditReport`."""

    requests: int = 0
    written: int = 0
    records: int = 0
    rows: int = 0
    outside: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)
    unchecked: Counter[str] = field(default_factory=Counter)

    def add(self, violation: Violation) -> None:
        self.broken[str(violation.rule)] += 1
        if len(self.violations) < MAX_KEPT:
            self.violations.append(violation)

    def report(self, read: ReadCounts, results: Mapping[str, int]) -> AuditReport:
        """The report, with what was read from Temporal."""
        unchecked = dict(self.unchecked)
        if read.unreadable:
            unchecked["payloads that this client cannot read"] = read.unreadable
        if read.deleted:
            unchecked["histories that were deleted meanwhile"] = read.deleted
        if read.no_activities:
            unchecked["programs' activities: this server cannot list them"] = 1
        return AuditReport(
            workflows=read.workflows,
            activities=read.activities,
            requests=self.requests,
            results=dict(results),
            written=self.written,
            records=self.records,
            rows=self.rows,
            outside=self.outside,
            broken=dict(self.broken),
            violations=tuple(self.violations),
            unchecked=unchecked,
        )
