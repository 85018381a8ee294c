"""The batcher's workflow is the library's: many services run it, and its history must fit the library that replays it.

It stands here so that the service has the four files one looks for, and to say which workflow the worker serves.
"""

from temporal_batching.batcher.workflow import BatcherWorkflow

__all__ = ["BatcherWorkflow"]
