"""The Dockerfile passes its linter, and says what the code and the project's metadata say."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from temporal_batching.health.responder import HealthServer
from temporal_batching.testing.servers import free_port
from tests.support.deployment import DEPLOY, PROJECT, ROOT, port_of, settings_of

DOCKERFILE = DEPLOY / "Dockerfile"
LINES = re.sub(r"\\\n(?:\s*#[^\n]*\n)*\s*", " ", DOCKERFILE.read_text(encoding="utf-8")).splitlines()


def instructions(name: str) -> list[str]:
    """What follows each instruction of this name."""
    return [line.partition(" ")[2].strip() for line in LINES if line.startswith(f"{name} ")]


def variables() -> dict[str, str]:
    """The environment of the image."""
    return dict(pair.partition("=")[::2] for text in instructions("ENV") for pair in shlex.split(text))


def probe() -> list[str]:
    return list(json.loads(instructions("HEALTHCHECK")[0].partition("CMD ")[2]))


def test_hadolint_has_nothing_to_say() -> None:
    program = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([program, str(DOCKERFILE)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_runs_the_worker_where_its_ports_say() -> None:
    (entry,) = PROJECT["project"]["scripts"]
    assert [json.loads(text) for text in instructions("ENTRYPOINT")][-1] == [entry]
    arguments = json.loads(instructions("CMD")[-1])
    found = settings_of(arguments, {name: value for name, value in variables().items() if name.startswith("BATCHING_")})
    assert instructions("EXPOSE") == [f"{port_of(found.health)} {port_of(found.metrics)}"]


def test_it_is_not_root_and_says_so_by_a_number() -> None:
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", instructions("USER")[-1])


def test_every_extra_that_it_installs_there_is() -> None:
    (extras,) = (text.partition("=")[2] for text in instructions("ARG") if text.startswith("EXTRAS="))
    assert set(extras.split(",")) <= set(PROJECT["project"]["optional-dependencies"])
    assert "cli" in extras.split(",")


def test_it_takes_the_versions_that_the_project_pins() -> None:
    (program,) = re.findall(r'python3 -c "([^"]+)" > constraints.txt', DOCKERFILE.read_text(encoding="utf-8"))
    program = program.replace("\\n", "\n") if "\n" in program else program
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == PROJECT["tool"]["uv"]["constraint-dependencies"], done.stderr


def test_its_base_is_an_argument() -> None:
    assert instructions("FROM")[:2] == ["${BASE} AS build", "${BASE} AS runtime"]
    assert instructions("ARG")[0].startswith("BASE=")


def test_what_the_build_needs_reaches_it_and_nothing_of_a_checkout_does() -> None:
    rules = [
        line
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]

    def reaches(path: str) -> bool:
        """As Docker reads its file: the last rule that fits decides."""
        parents = [path, *map(str, Path(path).parents)][:-1]
        ignored = False
        for rule in rules:
            pattern = rule.removeprefix("!")
            if any(fnmatch(one, pattern) and one.count("/") == pattern.count("/") for one in parents):
                ignored = not rule.startswith("!")
        return not ignored

    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = ["pyproject.toml", PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]]
    needed += [*wheel["packages"], *wheel["force-include"]]
    assert [path for path in needed if not reaches(path)] == []
    for path in (
        ".git",
        ".venv",
        ".tools/uv/bin/uv",
        "tests/conftest.py",
        "deploy/Dockerfile",
        "examples/batching.toml",
    ):
        assert not reaches(path), path
    sources = {text.split()[-2] for text in instructions("COPY") if not text.startswith("--from")}
    assert sources == {".", "main-service", "examples"}


@pytest.mark.parametrize("alive", [True, False])
async def test_its_probe_asks_whether_the_worker_lives(alive: bool) -> None:
    address = f"127.0.0.1:{free_port()}"

    async def conditions() -> list[object]:
        return []

    server = HealthServer(address, conditions)  # type: ignore[arg-type]
    if alive:
        await server.start()
    command = [sys.executable, *probe()[1:]]
    environment = os.environ | {"BATCHING_HEALTH": address}
    process = await asyncio.create_subprocess_exec(*command, env=environment, stderr=asyncio.subprocess.DEVNULL)
    try:
        assert (await process.wait() == 0) is alive
    finally:
        await server.stop()
