"""The example in TypeScript, installed and built once for all tests: in ``build/``, so the checkout stays clean."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "typescript"
BUILD = ROOT / "build" / "typescript"

HOW_TO_INSTALL = ("ci",)
HOW_TO_BUILD = ("run", "build")

OLDEST_NODE = (20, 3)
"""What Temporal's SDK for TypeScript needs."""

PATH = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
"""A Node.js of this environment, as PyPI has one, before one of the machine."""

NPM = shutil.which("npm", path=PATH)

needs_node = [
    pytest.mark.node,
    pytest.mark.skipif(NPM is None, reason="npm is not installed: install Node.js 20.3 or later"),
]


def npm(*command: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Runs npm in the copy of the example."""
    return subprocess.run(
        [str(NPM), *command],
        cwd=BUILD,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "PATH": PATH, "NO_UPDATE_NOTIFIER": "1"},
    )


def build_example() -> None:
    """Copies the example, installs its packages and builds it, unless that is done already.

    Skips the test that asks for it where Node.js is too old, or where the packages cannot be had.
    """
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, env={**os.environ, "PATH": PATH})
    found = tuple(map(int, re.findall(r"\d+", version.stdout)[:2]))
    if found < OLDEST_NODE:
        pytest.skip(f"Node.js {version.stdout.strip()} is too old: 20.3 or later is needed")
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD.parent / "typescript.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # processes that run tests at the same time share it
        _install()
        _compile()


def _install() -> None:
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copyfile(EXAMPLE / name, BUILD / name)
    if _is_done("installed", locked := _digest([BUILD / "package-lock.json"])):
        return
    done = npm(*HOW_TO_INSTALL, "--prefer-offline")
    if done.returncode != 0:
        pytest.skip(f"the packages of the example cannot be installed here: {done.stderr.strip()[-200:]}")
    _note("installed", locked)


def _compile() -> None:
    sources = sorted(path for part in ("src", "test") for path in (EXAMPLE / part).rglob("*.ts"))
    if _is_done("built", digest := _digest([*sources, EXAMPLE / "tsconfig.json"])):
        return
    for part in ("src", "test", "lib"):
        shutil.rmtree(BUILD / part, ignore_errors=True)
    for part in ("src", "test"):
        shutil.copytree(EXAMPLE / part, BUILD / part)
    shutil.copyfile(EXAMPLE / "tsconfig.json", BUILD / "tsconfig.json")
    done = npm(*HOW_TO_BUILD)
    assert done.returncode == 0, done.stdout + done.stderr
    _note("built", digest)


def _digest(files: list[Path]) -> str:
    return sha256(b"".join(file.name.encode() + file.read_bytes() for file in files)).hexdigest()


def _is_done(step: str, digest: str) -> bool:
    stamp = BUILD / f".{step}"
    return stamp.exists() and stamp.read_text(encoding="utf-8") == digest


def _note(step: str, digest: str) -> None:
    (BUILD / f".{step}").write_text(digest, encoding="utf-8")
