"""Whether a worker is alive and ready, and whether a deployment is in order: the library behind ``check``."""

from temporal_batching.health.findings import Finding, Level
from temporal_batching.health.inspection import check

__all__ = ["Finding", "Level", "check"]
