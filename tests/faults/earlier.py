"""The library as earlier releases had it, for workers of two versions on one queue."""

from __future__ import annotations

import io
import subprocess
import zipfile
from functools import cache
from pathlib import Path

from tests.faults.processes import ROOT

SOURCE = "src/temporal_batching"


class NoRelease(Exception):
    """There is no earlier release to compare with."""


def latest_release() -> str:
    """The tag of the newest release before the files as they are now.

    Raises:
        NoRelease: Why there is none.
    """
    tags = _git("tag", "--list", "v*", "--sort=-version:refname", "--merged", "HEAD").decode().split()
    different = [tag for tag in tags if _differs(tag)]
    if not different:
        raise NoRelease("no release tag (v*) of an earlier library is in this history")
    return different[0]


def materialise(commit: str, directory: Path) -> Path:
    """Puts the library of a commit into a directory, and returns what belongs into PYTHONPATH."""
    # Not as tar: before Python 3.11.4 `tarfile` cannot be told to extract data alone.
    with zipfile.ZipFile(io.BytesIO(_git("archive", "--format=zip", commit, "--", SOURCE))) as archive:
        archive.extractall(directory)
    return directory / Path(SOURCE).parent


@cache
def _differs(commit: str) -> bool:
    return subprocess.run(["git", "diff", "--quiet", commit, "--", SOURCE], cwd=ROOT).returncode != 0


def _git(*arguments: str) -> bytes:
    try:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as err:
        raise NoRelease(f"git {arguments[0]} failed: {err}") from None
