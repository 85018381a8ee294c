"""``/healthz`` and ``/readyz`` on a port of their own.

An HTTP server of our own, of two paths, because what is installed with this library has none: the SDK's exporter serves
metrics only, and the standard library's server needs a thread for each connection and knows no event loop. That it
answers from the worker's event loop is the point: a loop that is stuck answers no probe.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from http import HTTPStatus

from temporal_batching.errors import AddressUnusable
from temporal_batching.health.readiness import Condition

MAX_HEAD = 8_192
"""Bytes of a request's head."""

HEAD_TIMEOUT = timedelta(seconds=5)
"""For a request to arrive."""

ADDRESS = "an address to listen on as HOST:PORT, such as 127.0.0.1:8080 or [::]:8080"


def parse_address(text: str) -> tuple[str, int]:
    """Reads ``HOST:PORT``; an IPv6 address stands in brackets.

    Raises:
        ValueError: With what is allowed.
    """
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ValueError(ADDRESS)
    if (":" in host and not bracketed) or any(c in host for c in "/@ "):
        raise ValueError(ADDRESS)
    return host[1:-1] if bracketed else host, int(port)


def check_address(text: str) -> str:
    """Returns ``text`` if something may listen there.

    Raises:
        AddressUnusable: It is no address.
    """
    try:
        parse_address(text)
    except ValueError as err:
        raise AddressUnusable(f"health {text!r}: {err}") from None
    return text


class HealthServer:
    """Answers probes.

    Args:
        address: Where, as ``HOST:PORT``.
        conditions: Says whether the worker is ready.

    Raises:
        AddressUnusable: The address is none.
    """

    def __init__(self, address: str, conditions: Callable[[], Awaitable[Sequence[Condition]]]) -> None:
        self._address = check_address(address)
        self._conditions = conditions
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begins to listen.

        Raises:
            AddressUnusable: Nothing can listen there.
        """
        host, port = parse_address(self._address)
        try:
            self._server = await asyncio.start_server(self._serve, host, port, limit=MAX_HEAD)
        except OSError as err:
            raise AddressUnusable(f"health {self._address!r}: {err.strerror or err}; {ADDRESS}") from None

    async def stop(self) -> None:
        """Stops listening."""
        if self._server is not None:
            self._server.close()  # a probe that is being answered is not waited for

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            status, text, head_only = await self._answer(reader)
            body = f"{text}\n".encode()
            head = (
                f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: text/plain; charset=utf-8\r\n"
                f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
            )
            writer.write(head.encode() + (b"" if head_only else body))
            async with asyncio.timeout(HEAD_TIMEOUT.total_seconds()):
                await writer.drain()
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[HTTPStatus, str, bool]:
        try:
            async with asyncio.timeout(HEAD_TIMEOUT.total_seconds()):
                head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            return HTTPStatus.BAD_REQUEST, "not an HTTP request", False
        method, _, rest = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if method not in ("GET", "HEAD"):
            return HTTPStatus.METHOD_NOT_ALLOWED, "GET and HEAD only", False
        return *await self._at(path), method == "HEAD"

    async def _at(self, path: str) -> tuple[HTTPStatus, str]:
        if path == "/healthz":
            return HTTPStatus.OK, "alive"
        if path != "/readyz":
            return HTTPStatus.NOT_FOUND, "there are /healthz and /readyz"
        conditions = await self._conditions()
        status = HTTPStatus.OK if all(one.met for one in conditions) else HTTPStatus.SERVICE_UNAVAILABLE
        return status, "\n".join(" ".join(str(one).split()) for one in conditions)
