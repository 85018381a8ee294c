"""The proxy that puts a database far away: it delays, and it does nothing else."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.harness.proxy import DelayingProxy

ROUND_TRIP = 0.2


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(1 << 16):
        writer.write(chunk)
        await writer.drain()
    await closed(writer)


@asynccontextmanager
async def far_echo(directory: Path) -> AsyncIterator[tuple[DelayingProxy, int]]:
    """A server that says what it hears, behind a proxy without delay as yet, and the proxy's port."""
    socket = str(directory / "echo")
    server = await asyncio.start_unix_server(echo, socket)
    proxy = DelayingProxy(socket)
    async with server:
        yield proxy, await proxy.start()
        await proxy.close()


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


async def ask(port: int, text: bytes) -> float:
    """Says it, waits until it comes back, and returns how long that took."""
    clock = asyncio.get_running_loop().time
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    start = clock()
    writer.write(text)
    assert await reader.readexactly(len(text)) == text
    taken = clock() - start
    await closed(writer)
    return taken


async def test_an_answer_takes_the_round_trip_that_was_set(tmp_path: Path) -> None:
    async with far_echo(tmp_path) as (proxy, port):
        proxy.round_trip = ROUND_TRIP
        assert await ask(port, b"x") >= ROUND_TRIP


async def test_many_connections_wait_at_the_same_time(tmp_path: Path) -> None:
    async with far_echo(tmp_path) as (proxy, port):
        proxy.round_trip = ROUND_TRIP
        clock = asyncio.get_running_loop().time
        start = clock()
        taken = await asyncio.gather(*(ask(port, b"x") for _ in range(40)))
        assert min(taken) >= ROUND_TRIP
        assert clock() - start < 40 * ROUND_TRIP / 2


async def test_what_is_under_way_is_not_limited_and_keeps_its_order(tmp_path: Path) -> None:
    """Far more than a connection's buffers hold, at a distance where waiting for each piece would take minutes."""
    text = random.Random(7).randbytes(8 << 20)
    async with far_echo(tmp_path) as (proxy, port):
        proxy.round_trip = ROUND_TRIP
        assert await ask(port, text) < len(text) / (1 << 16) * ROUND_TRIP / 2


async def test_the_end_of_a_connection_arrives_too(tmp_path: Path) -> None:
    async with far_echo(tmp_path) as (proxy, port):
        proxy.round_trip = 0.01
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"last words")
        writer.write_eof()
        assert await reader.read() == b"last words"
        await closed(writer)


async def test_a_database_that_is_not_there_ends_the_connection(tmp_path: Path) -> None:
    proxy = DelayingProxy(str(tmp_path / "nobody"))
    reader, writer = await asyncio.open_connection("127.0.0.1", await proxy.start())
    assert await reader.read() == b""
    await closed(writer)
    await proxy.close()
