"""The image is built on a base of Debian's packages, and its container finishes its flush when it is stopped.

Debian's packages are enough (``apt-get install debootstrap podman runc``); without them, or without root, these tests
are skipped.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa
from temporalio.client import Client

from temporal_batching import BatchClient, BatcherHandle
from temporal_batching.testing.servers import free_port
from tests.support.databases import TestDatabase
from tests.support.deployment import DEPLOY, ROOT
from tests.support.observing import get
from tests.support.waiting import assert_eventually

PROGRAMS = ("debootstrap", "podman", "runc")
MISSING = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]

pytestmark = [
    pytest.mark.image,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: apt-get install {' '.join(MISSING)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="debootstrap needs root"),
]

BASE = "localhost/debian-python"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
"""The machine's own: behind a company's proxy those of the base are not enough."""

USER = 10001


@dataclass(frozen=True)
class Podman:
    """Podman with images and containers of its own."""

    directory: Path

    @property
    def variables(self) -> dict[str, str]:
        files = {"CONTAINERS_STORAGE_CONF": "storage.conf", "CONTAINERS_CONF": "containers.conf"}
        return {**os.environ, **{name: str(self.directory / file) for name, file in files.items()}}

    def __call__(self, *arguments: str) -> str:
        """Runs a command of it, and returns what it prints."""
        command = ["podman", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=580, env=self.variables)
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    def build(self, target: str, name: str) -> None:
        given = ["--build-arg", f"BASE={BASE}", "--file", str(DEPLOY / "Dockerfile"), "--target", target, "--tag", name]
        if CERTIFICATES.exists():
            (self.directory / "pip.conf").write_text(f"[global]\ncert = {CERTIFICATES}\n", encoding="utf-8")
            given += ["--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro"]
            given += ["--volume", f"{self.directory / 'pip.conf'}:/etc/pip.conf:ro"]
        # Of the formats only Docker's own knows HEALTHCHECK.
        self("build", "--format", "docker", "--isolation", "chroot", "--network", "host", *given, str(ROOT))

    def run(self, name: str, image: str, *command: str, variables: Mapping[str, str], data: Path | None = None) -> None:
        """Starts a container, as the manifests do: without rights, and with a root that nobody can write to."""
        rights = ("--read-only", "--read-only-tmpfs=false", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
        given = [word for pair in variables.items() for word in ("--env", "=".join(pair))]
        if data is not None:
            given += ["--volume", f"{data}:/data"]
        options = ("--detach", "--network", "host", "--health-interval", "disable", "--name", name)
        self("run", *options, *rights, *given, image, *command)

    def log(self, name: str) -> str:
        """What a container has printed, on either stream."""
        command = ["podman", "logs", name]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.variables)
        return done.stdout

    def exit_code(self, name: str) -> int:
        return int(self("wait", name))


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    directory = Path(tempfile.mkdtemp(prefix="batching-image-"))
    (directory / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{directory}/images"\nrunroot = "{directory}/run"\n',
        encoding="utf-8",
    )
    (directory / "containers.conf").write_text(
        # Not more than a machine that is itself a container may set.
        '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n'
        '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n',
        encoding="utf-8",
    )
    podman = Podman(directory)
    try:
        subprocess.run(
            [str(DEPLOY / "debian-base"), BASE], env=podman.variables, check=True, capture_output=True, timeout=580
        )
        podman.build("worker", "temporal-batching")
        podman.build("main-service", "temporal-batching-main-service")
        yield podman
    finally:
        with suppress(AssertionError):
            podman("rm", "--all", "--force", "--time", "0")
            podman("rmi", "--all", "--force")
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def data(podman: Podman) -> Path:
    """A directory that the container may write to."""
    directory = Path(tempfile.mkdtemp(dir=podman.directory))
    os.chown(directory, USER, USER)
    return directory


def database(data: Path, table: str) -> TestDatabase:
    url = f"sqlite:///{data / 'app.db'}"
    found = TestDatabase("sqlite", url, sa.create_engine(url))
    found.execute(table)
    os.chown(data / "app.db", USER, USER)
    return found


async def until_ready(health: str) -> None:
    async def ready() -> None:
        status, body = await get(f"http://{health}/readyz")
        assert status == 200, body

    await assert_eventually(ready, within=120)


async def test_a_container_that_is_stopped_finishes_its_flush(client: Client, podman: Podman, data: Path) -> None:
    name, health = f"image-{uuid4().hex[:8]}", f"127.0.0.1:{free_port()}"
    file = database(data, "CREATE TABLE t (n int)")
    podman.run(
        name,
        "temporal-batching",
        data=data,
        variables={
            "TEMPORAL_ADDRESS": client.service_client.config.target_host,
            "BATCHING_NAME": name,
            "BATCHING_SINK": "sqlite:////data/app.db",
            "BATCHING_LINGER": "0",
            "BATCHING_HEALTH": health,
            "BATCHING_METRICS": f"127.0.0.1:{free_port()}",
        },
    )
    await until_ready(health)
    podman("healthcheck", "run", name)
    assert podman("exec", name, "id", "-u").strip() == str(USER)

    batcher = BatcherHandle(client, name)
    with file.locked("t"):
        writing = asyncio.create_task(BatchClient(client, name).write("t", {"n": 1}))

        async def flushing() -> None:
            (stats,) = await batcher.stats()
            assert stats.in_flight == 1

        await assert_eventually(flushing, within=30)
        podman("kill", "--signal", "TERM", name)

        async def stopping() -> None:
            assert "the worker is stopping" in (await get(f"http://{health}/readyz"))[1]

        await assert_eventually(stopping, within=30)
        assert podman("inspect", "--format", "{{.State.Running}}", name).strip() == "true"
    assert await asyncio.to_thread(podman.exit_code, name) == 0
    assert (await asyncio.wait_for(writing, 30)).outcome == "written"
    assert file.rows("SELECT n FROM t") == [(1,)]
    assert podman.log(name).splitlines()[-1] == "Stopped."


async def test_the_main_service_books_payments_through_the_worker(client: Client, podman: Podman, data: Path) -> None:
    name, health = f"image-{uuid4().hex[:8]}", f"127.0.0.1:{free_port()}"
    here = {
        "TEMPORAL_ADDRESS": client.service_client.config.target_host,
        "BATCHING_NAME": name,
        "MAIN_TASK_QUEUE": name,
    }
    observed = {"BATCHING_HEALTH": health, "BATCHING_METRICS": f"127.0.0.1:{free_port()}"}
    sink = {"BATCHING_SINK": "sqlite:////data/app.db", "BATCHING_LINGER": "1s"}
    podman.run(name, "temporal-batching", "worker", "--create-tables", data=data, variables=here | sink | observed)
    podman.run(f"{name}-main", "temporal-batching-main-service", variables=here)
    await until_ready(health)
    payments = ("main-service/starter.py", "--workflows", "20", "--via", "activity")
    podman.run(f"{name}-payments", "temporal-batching-main-service", *payments, variables=here)
    assert await asyncio.to_thread(podman.exit_code, f"{name}-payments") == 0, podman.log(f"{name}-payments")
    assert "20 payments: 20 written" in podman.log(f"{name}-payments")
    for one in (name, f"{name}-main"):
        podman("kill", "--signal", "TERM", one)
        assert await asyncio.to_thread(podman.exit_code, one) == 0
