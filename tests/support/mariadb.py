"""A MariaDB server of a test process: the one that is installed, in a directory of its own, on a socket of its own."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

WHERE = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin:/usr/local/mysql/bin"

FAST = (
    # Tests kill processes, not machines: what the operating system has is safe.
    "--innodb-flush-log-at-trx-commit=2",
    "--innodb-flush-method=nosync",
    "--innodb-doublewrite=0",
    "--sync-binlog=0",
    "--skip-log-bin",
    "--innodb-buffer-pool-size=32M",
    "--innodb-log-file-size=32M",
    "--innodb-stats-persistent=0",
    "--performance-schema=OFF",
    "--skip-name-resolve",
    "--innodb-fast-shutdown=2",
)

START_SECONDS = 60


def missing() -> str | None:
    """Why there can be no server here, or None."""
    for program in ("mariadbd", "mariadb-install-db"):
        if shutil.which(program, path=WHERE) is None:
            return f"{program} is not installed (Debian's mariadb-server)"
    return None


class MariadbServer:
    """A server that can be stopped, killed and started again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "socket"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> sa.URL:
        """The URL of the server, without a database."""
        return sa.make_url("mariadb+pymysql://root@localhost").set(query={"unix_socket": str(self.socket)})

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def install(self) -> None:
        """Makes the system tables."""
        self._run("mariadb-install-db", "--auth-root-authentication-method=normal", "--skip-test-db")

    def _arguments(self, program: str) -> list[str]:
        found = shutil.which(program, path=WHERE)
        assert found is not None
        # A server that starts deletes every temporary table in its directory for them, those of another server too.
        places = [f"--datadir={self.directory / 'data'}", f"--tmpdir={self.directory}"]
        return [found, "--no-defaults", *places, f"--user={getpass.getuser()}"]

    def _run(self, program: str, *options: str) -> None:
        done = subprocess.run([*self._arguments(program), *options], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def start(self, *options: str) -> None:
        """Starts it, unless it runs, and waits until it takes connections."""
        if self._process is None or self._process.poll() is not None:
            with (self.directory / "log").open("ab") as log:
                self._process = subprocess.Popen(
                    [*self._arguments("mariadbd"), *FAST, "--skip-networking", f"--socket={self.socket}",
                     f"--pid-file={self.directory / 'pid'}", *options],
                    stdout=log,
                    stderr=log,
                )  # fmt: skip
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                # The driver would leave a socket open that it cannot connect.
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                    probe.connect(str(self.socket))
                return
            except OSError:
                assert self._process.poll() is None, (self.directory / "log").read_text()
                assert time.monotonic() < end, (self.directory / "log").read_text()
                time.sleep(0.02)

    def kill(self) -> None:
        """Kills it, as the kernel does that runs out of memory."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """Ends it; it closes what it has open."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()


@contextmanager
def mariadb_server(*options: str) -> Iterator[MariadbServer]:
    """A server in a temporary directory, which is removed at the end.

    Args:
        options: Of the server, besides those that make it fast.
    """
    # Not under pytest's temporary directory: another run beside this one may clear that away. And a socket's path
    # must be short.
    with tempfile.TemporaryDirectory(prefix="maria-", ignore_cleanup_errors=True) as name:
        server = MariadbServer(Path(name))
        server.install()
        server.start(*options)
        try:
            yield server
        finally:
            server.kill()
