"""A process that used Temporal ends without a crash.

The SDK (1.35, sdk-python issue 300) has threads that call into Python: to hand over the answer of a call, and once more
to let go of what belonged to it. A process that ends right after its last answer may tear the interpreter down
meanwhile, and is aborted, though all it did is done. So it waits a moment first: of 60 scripts that made a few calls
and ended, 35 crashed, and none of 60 that waited.
"""

from __future__ import annotations

import atexit
import sys
import time

LAST_CALLS = 0.1
"""Seconds that a process waits at its end. Such a call takes less than a millisecond, on a busy machine more."""

_MARK = "_temporal_batching_waits_at_exit"


def wait_at_exit() -> None:
    """Lets the process wait at its end; once, however often it is asked to: a workflow sandbox may import this anew."""
    if not hasattr(sys, _MARK):
        setattr(sys, _MARK, True)
        atexit.register(time.sleep, LAST_CALLS)
