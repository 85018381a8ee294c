"""The batcher's workflow is the library's: many services run it, and a history must fit the code that replays it."""

from temporal_batching import BatcherWorkflow

__all__ = ["BatcherWorkflow"]
