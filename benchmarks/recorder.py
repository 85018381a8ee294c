"""How a worker's process tells the driver that a caller has its confirmation: a line on standard output for each.

Asking Temporal for results instead would add the driver's own requests to every figure.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import datetime


def now() -> float:
    """Wall-clock time, for workflows: they are measured, not decided, by it."""
    return time.time()


def confirmed(started: float, settled_at: datetime | None = None) -> None:
    """Reports one write: how long its caller waited, and how much of that came after the commit."""
    end = time.time()
    delivery = None if settled_at is None else end - settled_at.timestamp()
    say(latency=end - started, delivery=delivery)


def say(**message: object) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()
