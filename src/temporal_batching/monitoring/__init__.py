"""Watches a batcher: `monitor` shows its figures live, and follows it into each new run. Needs the extra ``cli``.

`reading` asks the shards, `watch` says what has changed between two looks, `view` draws the figures, and `live` puts
them on a console.
"""

from temporal_batching.monitoring.live import monitor
from temporal_batching.monitoring.reading import BatcherUnreadable, NoAnswer

__all__ = ["BatcherUnreadable", "NoAnswer", "monitor"]
