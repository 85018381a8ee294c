"""A process that used the library ends without a crash."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import os, sys, threading, time
import temporal_batching
for name in [name for name in sys.modules if name.startswith("temporal_batching")]:
    del sys.modules[name]
import temporal_batching  # again, as a workflow sandbox imports it

def late():
    time.sleep(0.03)  # a thread of the SDK that is about to call into Python
    os.write(1, b"served")
    time.sleep(0.12)
    os.write(1, b" twice")

threading.Thread(target=late, daemon=True).start()
"""


def test_calls_of_other_threads_are_served_before_the_interpreter_ends() -> None:
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "served", "")
