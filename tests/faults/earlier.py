"""The library as earlier commits had it, for workers of different ages on one queue."""

from __future__ import annotations

import io
import subprocess
import zipfile
from functools import cache
from pathlib import Path

from tests.faults.processes import ROOT

SOURCE = "src/temporal_batching"
AT_WORK = [SOURCE, f":(exclude){SOURCE}/cli", f":(exclude){SOURCE}/testing.py"]
"""What makes a batcher's worker: a change of the demo alone is none that two workers could disagree about."""


class NoHistory(Exception):
    """There is no git history here to take an earlier commit from."""


def earlier_commit(steps: int) -> str:
    """The commit before so many changes of the library, counted from the files as they are now.

    Raises:
        NoHistory: Why there is none.
    """
    commits = _git("log", "--format=%h", "--", *AT_WORK).decode().split()
    # What is here may be committed already, or not yet.
    different = [commit for commit in commits if _differs(commit)]
    if len(different) < steps:
        raise NoHistory(f"git knows {len(commits)} commits of the library: too few, or a shallow clone")
    return different[steps - 1]


def materialise(commit: str, directory: Path) -> Path:
    """Puts the library of a commit into a directory, and returns what belongs into PYTHONPATH."""
    # Not as tar: before Python 3.11.4 `tarfile` cannot be told to extract data alone.
    with zipfile.ZipFile(io.BytesIO(_git("archive", "--format=zip", commit, "--", SOURCE))) as archive:
        archive.extractall(directory)
    return directory / Path(SOURCE).parent


@cache
def _differs(commit: str) -> bool:
    return subprocess.run(["git", "diff", "--quiet", commit, "--", *AT_WORK], cwd=ROOT).returncode != 0


def _git(*arguments: str) -> bytes:
    try:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as err:
        raise NoHistory(f"git {arguments[0]} failed: {err}") from None
