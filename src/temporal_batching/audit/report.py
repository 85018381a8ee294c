"""The report of an audit, and the findings from which it is made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from temporal_batching.audit.facts import ReadCounts
from temporal_batching.audit.rules import Violation

MAX_KEPT = 10_000
"""The violations that a report lists; further ones are only counted."""


@dataclass(frozen=True, kw_only=True)
class AuditReport:
    """What an audit read, and the broken promises that it found.

    Attributes:
        workflows: The number of callers' histories that were read, one for each run.
        activities: The number of activities that programs started.
        requests: The number of request ids that were checked.
        results: The number of calls by result: ``{"written": 20, "rejected": 1}``.
        written: The number of checked request ids that the ledger has as written.
        records: The number of records that were looked up.
        rows: The number of rows that were found for the records of written requests.
        outside: The number of ids of this batcher in the ledger for which there is no call.
        broken: The number of violations by rule.
        violations: The first 10,000 violations.
        unchecked: The number of things that could not be checked, by kind.
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
    """The findings of the check of the database so far. `AuditReport` explains the fields."""

    requests: int = 0
    written: int = 0
    records: int = 0
    rows: int = 0
    outside: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)
    unchecked: Counter[str] = field(default_factory=Counter)

    def add(self, violation: Violation) -> None:
        """Counts a violation, and keeps it unless there are too many."""
        self.broken[str(violation.rule)] += 1
        if len(self.violations) < MAX_KEPT:
            self.violations.append(violation)

    def report(self, read: ReadCounts, results: Mapping[str, int]) -> AuditReport:
        """Makes the report.

        Args:
            read: What was read from Temporal.
            results: The number of calls by result.
        """
        unchecked = dict(self.unchecked)
        if read.unreadable:
            unchecked["payloads that this client cannot read"] = read.unreadable
        if read.deleted:
            unchecked["histories that were deleted meanwhile"] = read.deleted
        if read.gone_parcels:
            unchecked["parcels of programs whose activities were deleted"] = read.gone_parcels
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
