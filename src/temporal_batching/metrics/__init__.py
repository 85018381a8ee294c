"""What a batcher's worker measures, and the runtime that publishes it. ``docs/reference/metrics.md`` is the list."""

from temporal_batching.metrics.catalog import METRICS, Kind, Metric
from temporal_batching.metrics.runtime import HISTOGRAM_BUCKETS, batching_runtime

__all__ = ["HISTOGRAM_BUCKETS", "METRICS", "Kind", "Metric", "batching_runtime"]
