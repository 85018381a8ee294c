"""Probes are answered quickly and shortly, whatever comes in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from temporal_batching.errors import AddressUnusable
from temporal_batching.health.readiness import Condition
from temporal_batching.health.responder import HealthServer, parse_address
from temporal_batching.testing.servers import free_port

READY = [Condition("temporal", True, "namespace 'default' answers"), Condition("sink", True, "it answers")]
DOWN = [READY[0], Condition("sink", False, "postgresql: connection\nrefused")]


class Probed:
    """A server under test.

    Attributes:
        conditions: What it finds.
    """

    def __init__(self) -> None:
        self.conditions: Sequence[Condition] = READY
        self.port = free_port()
        self.server = HealthServer(f"127.0.0.1:{self.port}", self._conditions)

    async def _conditions(self) -> Sequence[Condition]:
        return self.conditions

    async def ask(self, request: bytes) -> tuple[str, str]:
        """The status line and the body of an answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        if writer.can_write_eof():
            writer.write_eof()
        answer = (await reader.read()).decode()
        writer.close()
        head, _, body = answer.partition("\r\n\r\n")
        return head.partition("\r\n")[0], body

    async def get(self, path: str) -> tuple[str, str]:
        return await self.ask(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


@pytest.fixture
async def probed() -> AsyncIterator[Probed]:
    probed = Probed()
    await probed.server.start()
    yield probed
    await probed.server.stop()


async def test_the_process_is_alive_whatever_is_down(probed: Probed) -> None:
    """Or an outage of the database would have every worker restarted."""
    probed.conditions = DOWN
    assert await probed.get("/healthz") == ("HTTP/1.1 200 OK", "alive\n")


async def test_ready_if_every_condition_is_met_and_otherwise_the_answer_says_which_is_not(probed: Probed) -> None:
    lines = "temporal: ok, namespace 'default' answers\nsink: ok, it answers\n"
    assert await probed.get("/readyz") == ("HTTP/1.1 200 OK", lines)
    probed.conditions = DOWN
    status, body = await probed.get("/readyz?verbose=1")
    assert status == "HTTP/1.1 503 Service Unavailable"
    assert body.splitlines()[1:] == ["sink: not ready, postgresql: connection refused"]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 404 Not Found"),
        (b"POST /healthz HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi", "HTTP/1.1 405 Method Not Allowed"),
        (b"\x16\x03\x01\x02\x00\x01\x00", "HTTP/1.1 400 Bad Request"),
        (b"GET /healthz", "HTTP/1.1 400 Bad Request"),
        (b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", "HTTP/1.1 400 Bad Request"),
        (b"\r\n\r\n", "HTTP/1.1 405 Method Not Allowed"),
        (b"GET /\xff\xfe HTTP/1.1\r\n\r\n", "HTTP/1.1 404 Not Found"),
    ],
    ids=["other path", "post", "tls", "cut off", "too long", "empty", "not ascii"],
)
async def test_what_is_no_probe_gets_an_error_and_the_next_probe_its_answer(
    probed: Probed, request_: bytes, status: str
) -> None:
    assert (await probed.ask(request_))[0] == status
    assert (await probed.get("/healthz"))[0] == "HTTP/1.1 200 OK"


async def test_head_gets_no_body(probed: Probed) -> None:
    assert await probed.ask(b"HEAD /readyz HTTP/1.0\r\n\r\n") == ("HTTP/1.1 200 OK", "")


async def test_an_address_in_use_is_named(probed: Probed) -> None:
    other = HealthServer(f"127.0.0.1:{probed.port}", probed._conditions)
    with pytest.raises(AddressUnusable, match=rf"^health '127.0.0.1:{probed.port}': .*HOST:PORT"):
        await other.start()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("[::]:1", ("::", 1)),
        ("worker.example:65535", ("worker.example", 65535)),
    ],
)
def test_an_address_is_read(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", "8080", ":8080", "h:", "h:0", "h:65536", "h:x", "::1:80", "http://h:80", "h:\uff18\uff10"]
)
def test_what_is_no_address_is_refused_with_what_is_one(text: str) -> None:
    with pytest.raises(AddressUnusable, match="HOST:PORT, such as"):
        HealthServer(text, lambda: asyncio.sleep(0, []))
