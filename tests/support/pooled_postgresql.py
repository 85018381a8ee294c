"""Debian's PostgreSQL behind Debian's PgBouncer: for a run of the PostgreSQL tests with ``--postgresql pooled``.

The sinks reach the database through the pooler, in transaction mode; the tests look into it past the pooler.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import sqlalchemy as sa

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

CONFIGURATION = """[databases]
* = host={server} user=postgres
[pgbouncer]
pool_mode = transaction
default_pool_size = {connections}
listen_port = 6432
unix_socket_dir = {directory}
logfile = {directory}/log
auth_type = any
server_idle_timeout = 5
"""

SERVER_OPTIONS = ("-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=200")


@dataclass(frozen=True)
class PooledServer:
    """A server and its pooler.

    Attributes:
        direct: The server's maintenance database.
        pooled: The same by way of the pooler.
    """

    direct: sa.URL
    pooled: sa.URL


def installed_server() -> Path | None:
    """The directory of the newest PostgreSQL of Debian's packages, if there is one."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


def missing() -> str | None:
    """Why there can be no pooled server here; None if there can."""
    if installed_server() is None:
        return "PostgreSQL is not installed: apt-get install postgresql"
    if PGBOUNCER is None:
        return "PgBouncer is not installed: apt-get install pgbouncer"
    return None


def account() -> str | None:
    """Whom the servers run as: both refuse to run as root."""
    return "postgres" if os.getuid() == 0 else None


@contextmanager
def pooled_server() -> Iterator[PooledServer]:
    """Starts both, in a directory that is removed with them."""
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="pooled-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        if user := account():
            os.chown(directory, pwd.getpwnam(user).pw_uid, -1)
        programs = installed_server()
        assert programs is not None
        data = directory / "data"
        initialise = [
            str(programs / "initdb"),
            "-D",
            str(data),
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-sync",
        ]
        subprocess.run(initialise, user=account(), check=True, capture_output=True, cwd=directory)
        serve = [str(programs / "postgres"), "-D", str(data), "-k", str(directory), *SERVER_OPTIONS]
        stack.enter_context(_running(serve, directory))
        direct = sa.URL.create(
            "postgresql+psycopg", "postgres", database="postgres", query={"host": str(directory), "port": "5432"}
        )
        _until_it_answers(direct)
        pooled = stack.enter_context(pooler(str(directory), connections=20))
        yield PooledServer(direct, direct.set(query=pooled))


@contextmanager
def pooler(server: str, *, connections: int) -> Iterator[dict[str, str]]:
    """Starts a pooler in front of a server; gives the query of its URLs.

    Args:
        server: The directory of the server's socket.
        connections: To the server, for each database.
    """
    assert PGBOUNCER is not None
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        file = directory / "pgbouncer.ini"
        file.write_text(CONFIGURATION.format(server=server, directory=directory, connections=connections))
        # Whoever runs the server can reach the server's socket.
        user = pwd.getpwuid(Path(server).stat().st_uid).pw_name if os.getuid() == 0 else None
        if user is not None:
            shutil.chown(directory, user)
        stack.enter_context(_running([PGBOUNCER, "-q", str(file)], directory, user=user))
        query = {"host": str(directory), "port": "6432"}
        _until_it_answers(sa.URL.create("postgresql", "postgres", database="postgres", query=query))
        yield query


@contextmanager
def _running(command: list[str], directory: Path, *, user: str | None = None) -> Iterator[None]:
    process = subprocess.Popen(
        command, user=user or account(), cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)  # both wait for no client then
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


def _until_it_answers(url: sa.URL) -> None:
    until = time.monotonic() + 20
    while True:
        try:
            psycopg.connect(url.set(drivername="postgresql").render_as_string(hide_password=False)).close()
        except psycopg.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return
