"""Where there is no Temporal, one line says so: where, why and what to do."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from temporal_batching.cli import connect as connecting
from temporal_batching.cli.connect import connect, is_loopback
from temporal_batching.cli.console import CommandError
from temporal_batching.testing.servers import free_port

KEY = "an-api-key-nobody-may-see"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """No profile of whoever runs the tests."""
    (tmp_path / "none.toml").touch()
    return {"TEMPORAL_CONFIG_FILE": str(tmp_path / "none.toml")}


async def _complaint(environment: dict[str, str], address: str) -> str:
    with pytest.raises(CommandError) as error:
        await connect(environment=environment | {"TEMPORAL_ADDRESS": address})
    message = str(error.value)
    assert "\n" not in message
    assert address in message
    return message


async def test_a_closed_port_is_told_by_its_address_and_what_to_do(environment: dict[str, str]) -> None:
    message = await _complaint(environment, f"127.0.0.1:{free_port()}")
    assert "connection refused" in message
    assert "temporal server start-dev" in message
    assert "TEMPORAL_ADDRESS" in message


async def test_a_key_is_never_repeated(environment: dict[str, str]) -> None:
    address = f"127.0.0.1:{free_port()}"
    assert KEY not in await _complaint(environment | {"TEMPORAL_API_KEY": KEY}, address)


async def test_something_that_never_answers_is_given_up_after_seconds(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "CONNECT_SECONDS", 0.3)

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(swallow, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert "did not answer within 0.3 s" in await _complaint(environment, f"127.0.0.1:{port}")


async def test_something_that_is_not_temporal_is_called_so(environment: dict[str, str]) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(64)
        writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert "Cannot reach Temporal" in await _complaint(environment, f"127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("target", "loopback"),
    [
        ("localhost:7233", True),
        ("127.0.0.1:7233", True),
        ("[::1]:7233", True),
        ("temporal.example:7233", False),
        ("10.0.0.7:7233", False),
    ],
)
def test_only_this_machine_goes_without_compression(target: str, loopback: bool) -> None:
    assert is_loopback(target) is loopback
