"""For tests of code that writes through a batcher."""

from temporal_batching.testing.batcher import RunningBatcher, running_batcher

__all__ = ["RunningBatcher", "running_batcher"]
