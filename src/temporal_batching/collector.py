"""Python's garbage collector, in a process that is a worker."""

from __future__ import annotations

import gc

YOUNG_OBJECTS = 50_000
"""Objects that are made, and not gone, until the collector looks at them. Python's own figure is 700, or 2,000: a batch
of 2,000 records has it go through them some thirty times, and every third batch through all that the process holds.
That was two fifths of a worker's CPU. What it looks for is objects that refer to each other in a circle: a batch makes
none."""


def collect_less_often() -> None:
    """Has the garbage collector look less often, unless the process has said how often, or switched it off."""
    young, *older = gc.get_threshold()
    if gc.isenabled() and 0 < young < YOUNG_OBJECTS:
        gc.set_threshold(YOUNG_OBJECTS, *older)
