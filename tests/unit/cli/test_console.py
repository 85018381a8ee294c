"""How a command ends: with its status and its last words, and without tearing down what the SDK's threads run in."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import atexit
from temporal_batching.cli.console import CommandError, out, run

atexit.register(lambda: print("torn down"))

async def work():
    out.print("at work")
    {}

run(work())
"""


@pytest.mark.parametrize(
    ("end", "status", "complaint"),
    [
        ("return None", 0, ""),
        ("return 3", 3, ""),
        ("raise CommandError('no such thing')", 1, "error: no such thing"),
        ("raise ZeroDivisionError('a defect')", 1, "ZeroDivisionError: a defect"),
    ],
)
def test_a_command_ends_at_once_with_its_status_and_all_it_said(end: str, status: int, complaint: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(end)], capture_output=True, text=True, timeout=60)
    assert done.returncode == status
    assert done.stdout.split("\n") == ["at work", ""], "the interpreter was torn down, or lost what was printed"
    assert done.stderr.strip().endswith(complaint)
    assert ("Traceback" in done.stderr) == ("ZeroDivision" in end)
