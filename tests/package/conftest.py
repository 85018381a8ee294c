"""The wheel as it would be published, and empty environments that it is installed into."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.acceptance.conftest import ROOT, UV

Install = Callable[[str], "Environment"]


@dataclass(frozen=True)
class Environment:
    """A virtual environment that has the wheel, with some of its extras, and nothing of this checkout."""

    directory: Path

    @property
    def binaries(self) -> Path:
        return self.directory / ("Scripts" if os.name == "nt" else "bin")

    @property
    def variables(self) -> dict[str, str]:
        """As after ``. .venv/bin/activate``."""
        hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "BATCHING_", "TEMPORAL_", "COVERAGE_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
        path = f"{self.binaries}{os.pathsep}{os.environ['PATH']}"
        return kept | {"PATH": path, "VIRTUAL_ENV": str(self.directory), "PYTHONUNBUFFERED": "1"}

    def run(self, *command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        program = [str(self.binaries / command[0]), *command[1:]]
        return subprocess.run(program, cwd=cwd, env=self.variables, capture_output=True, text=True, timeout=120)


def succeeded(command: Sequence[str], **options: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=options.get("cwd"))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    succeeded([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory)], cwd=str(ROOT))
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def install(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Install:
    """Makes an empty environment and installs the wheel with an extra, in the versions that the project pins."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    pins = tmp_path_factory.mktemp("pins") / "pins.txt"
    pins.write_text("\n".join(project["tool"]["uv"]["constraint-dependencies"]), encoding="utf-8")

    def install(extra: str) -> Environment:
        environment = Environment(tmp_path_factory.mktemp(f"with-{extra or 'nothing'}") / ".venv")
        python = str(environment.binaries / "python")
        wanted = ["-c", str(pins), f"{wheel}[{extra}]" if extra else str(wheel)]
        if UV is not None:
            succeeded([UV, "venv", "--quiet", "--python", sys.executable, str(environment.directory)])
            succeeded([UV, "pip", "install", "--quiet", "--python", python, *wanted])
        else:
            succeeded([sys.executable, "-m", "venv", str(environment.directory)])
            succeeded([python, "-m", "pip", "install", "--quiet", *wanted])
        return environment

    return install
