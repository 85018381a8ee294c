"""Helpers for tests of code that writes through a batcher, and for tests of sinks."""

from temporal_batching.testing.batcher import RunningBatcher, running_batcher
from temporal_batching.testing.check_sink import BrokenPromise, SinkPromise, SinkReport, check_sink

__all__ = ["BrokenPromise", "RunningBatcher", "SinkPromise", "SinkReport", "check_sink", "running_batcher"]
