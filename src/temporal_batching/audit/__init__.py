"""Audits a deployment: compares what callers asked for and got with what the ledger and the tables hold.

`audit` returns an `AuditReport`: what was read, which promises were broken, and what could not be checked. The
command ``temporal-batching audit`` prints it. The modules, from the bottom: `rules` and `order` are pure; `facts` and
`store` keep what `histories` reads from Temporal; `tables` and `finder` read the database's tables and rows; `ledger`,
`records` and `check` compare.
"""

from importlib.util import find_spec

if find_spec("sqlalchemy") is None:
    raise ImportError("The audit needs SQLAlchemy: install temporal-batching[sql]")

from temporal_batching.audit.report import AuditReport
from temporal_batching.audit.rules import CallResult, Rule, Violation
from temporal_batching.audit.run import audit

__all__ = ["AuditReport", "CallResult", "Rule", "Violation", "audit"]
