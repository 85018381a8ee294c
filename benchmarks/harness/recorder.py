"""How a worker's process tells the driver that a caller has its confirmation: a line on standard output for each.

Asking Temporal for results instead would add the driver's own requests to every figure. Callers and flushes share the
process, so a caller's time can be split here: until its flush began, while it wrote, and until the caller knew.
"""

from __future__ import annotations

import json
import sys
import time
from collections import OrderedDict

KEPT = 5_000
"""Flushes remembered: their callers are notified soon after, or never."""

_flushes: OrderedDict[str, tuple[float, float]] = OrderedDict()


def now() -> float:
    """Wall-clock time, for workflows: they are measured, not decided, by it."""
    return time.time()


def flushed(name: str, start: float, end: float) -> None:
    """Remembers when the rows of a batch, or of one caller, were being written; seconds since the epoch."""
    _flushes[name] = (start, end)
    while len(_flushes) > KEPT:
        _flushes.popitem(last=False)


def confirmed(started: float, flush: str) -> None:
    """Reports one write: how long its caller waited, and the parts of that around the named flush."""
    end = time.time()
    begun, written = _flushes.get(flush, (None, None))
    if begun is None or written is None:
        say(latency=end - started)
        return
    # A flush may begin before a caller that joins it starts to wait only by the clock's grain.
    say(latency=end - started, waiting=max(0.0, begun - started), flush=written - begun, delivery=end - written)


def say(**message: object) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()
