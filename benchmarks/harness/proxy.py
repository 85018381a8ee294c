"""A database that is far away: a TCP proxy in a process of its own that delays every byte by half the round trip.

    python -m benchmarks.harness.proxy SOCKET

It delays and does nothing else: as many bytes may be under way as come. It prints its port, and a number on its
standard input, in milliseconds, is the round trip from then on. The end of its input ends it.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import sqlalchemy as sa

from temporal_batching.testing.servers import stop

CHUNK = 1 << 16
READY_SECONDS = 20.0
SOCKET_PORT = 5432


class DelayingProxy:
    """Accepts connections, and passes on what they say after half the round trip."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.round_trip = 0.0

    async def start(self) -> int:
        """Returns the port on which it listens."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Accepts no more connections, and waits for the end of those that there are."""
        if self._server is not None:
            self._server.close()
        await asyncio.gather(*self._connections)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Kept until it ends: the event loop alone would let go of it.
        connection = asyncio.create_task(self._connect(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        with suppress(OSError):
            back, forth = await asyncio.open_unix_connection(self._socket)
            ends.append(forth)
            await asyncio.gather(self._pass_on(reader, forth), self._pass_on(back, writer))
        for end in ends:
            end.close()
            with suppress(OSError):
                await end.wait_closed()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        delivering = asyncio.create_task(self._deliver(under_way, writer))
        clock = asyncio.get_running_loop().time
        with suppress(ConnectionError):
            while chunk := await reader.read(CHUNK):
                under_way.put_nowait((clock() + self.round_trip / 2, chunk))
        under_way.put_nowait((clock() + self.round_trip / 2, b""))
        await delivering

    async def _deliver(self, under_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        """An empty piece is the end of what one side says; the other may still be speaking."""
        clock = asyncio.get_running_loop().time
        with suppress(OSError):
            while True:
                due, chunk = await under_way.get()
                await asyncio.sleep(due - clock())
                if not chunk:
                    break
                writer.write(chunk)
                await writer.drain()
            writer.write_eof()


async def _serve(socket: str) -> None:
    proxy = DelayingProxy(socket)
    print(await proxy.start(), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        proxy.round_trip = float(line) / 1000
        print("set", flush=True)


class FarDatabase:
    """A database behind the proxy."""

    def __init__(self, url: str, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        far = sa.make_url(url).difference_update_query(["host"]).set(host="127.0.0.1", port=port)
        self.url = far.render_as_string(hide_password=False)

    async def set_round_trip(self, milliseconds: float) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{milliseconds}\n".encode())
        await self._process.stdin.drain()
        await asyncio.wait_for(self._process.stdout.readline(), READY_SECONDS)


@asynccontextmanager
async def far_database(url: str) -> AsyncIterator[FarDatabase]:
    """The database of the URL, which has a Unix socket, with a round trip that can be set."""
    host = sa.make_url(url).query["host"]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.harness.proxy",
        f"{host}/.s.PGSQL.{SOCKET_PORT}",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        port = int(await asyncio.wait_for(process.stdout.readline(), READY_SECONDS))
        yield FarDatabase(url, process, port)
    finally:
        await asyncio.shield(stop(process))


if __name__ == "__main__":
    # epoll waits for whole milliseconds, and half a round trip may be less.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(_serve(sys.argv[1]))
