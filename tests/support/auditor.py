"""The one auditor of this project, as tests know it: `temporal-batching audit` judges deployments by the same rules."""

from temporal_batching.audit.judge import (
    NEGATIVE,
    POSITIVE,
    Arrival,
    Call,
    Row,
    Verdict,
    Violation,
    audit,
)

__all__ = ["NEGATIVE", "POSITIVE", "Arrival", "Call", "Row", "Verdict", "Violation", "audit"]
