"""Where there is no Temporal, one line says so: where, why and what to do."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import typer
from temporalio.client import Client

from temporal_batching.cli import connect as connecting
from temporal_batching.cli.app import app
from temporal_batching.cli.connect import Target, connect, is_loopback
from temporal_batching.cli.console import CommandError
from temporal_batching.testing.servers import free_port

KEY = "an-api-key-nobody-may-see"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Without the profile of the user who runs the tests."""
    (tmp_path / "none.toml").touch()
    return {"TEMPORAL_CONFIG_FILE": str(tmp_path / "none.toml")}


async def _complaint(environment: dict[str, str], address: str) -> str:
    with pytest.raises(CommandError) as error:
        await connect(environment=environment | {"TEMPORAL_ADDRESS": address})
    message = str(error.value)
    assert "\n" not in message
    assert address in message
    return message


async def test_the_error_of_a_closed_port_names_its_address_and_what_to_do(environment: dict[str, str]) -> None:
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


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a client is connected with."""
    given: dict[str, Any] = {}

    async def connected(*_: Any, **config: Any) -> None:
        given.update(config)
        raise RuntimeError("far enough")

    monkeypatch.setattr(Client, "connect", connected)
    return given


async def _connect(**arguments: Any) -> None:
    with pytest.raises(CommandError, match="far enough"):
        await connect(**arguments)


async def test_a_key_of_a_file_that_ends_with_a_line_break_is_sent_without_it(
    environment: dict[str, str], given: dict[str, Any]
) -> None:
    await _connect(environment=environment | {"TEMPORAL_API_KEY": f"{KEY}\n"})
    assert (given["api_key"], given["tls"]) == (KEY, True)


@pytest.mark.parametrize(("tls", "expected"), [({}, None), ({"TEMPORAL_TLS": "false"}, False)])
async def test_an_empty_key_is_none_and_does_not_switch_tls_on(
    environment: dict[str, str], given: dict[str, Any], tls: dict[str, str], expected: object
) -> None:
    await _connect(environment=environment | tls | {"TEMPORAL_API_KEY": ""})
    assert "api_key" not in given
    assert given.get("tls") is expected


PROFILES = f"""
[profile.default]
address = "here:7233"

[profile.cloud]
address = "there:7233"
namespace = "payments.a1b2c"
api_key = "{KEY}"

[profile.cloud.grpc_meta]
one = "1"
"""


@pytest.mark.parametrize("by", ["flag", "variable"])
async def test_a_profile_is_named_by_a_flag_or_a_variable(
    environment: dict[str, str], given: dict[str, Any], tmp_path: Path, by: str
) -> None:
    (tmp_path / "none.toml").write_text(PROFILES, encoding="utf-8")
    if by == "flag":
        await _connect(environment=environment | {"TEMPORAL_PROFILE": "default"}, profile="cloud")
    else:
        await _connect(environment=environment | {"TEMPORAL_PROFILE": "cloud"})
    found = (given["target_host"], given["namespace"], given["api_key"], given["tls"], given["rpc_metadata"])
    assert found == ("there:7233", "payments.a1b2c", KEY, True, {"one": "1"})
    await _connect(environment=environment | {"TEMPORAL_NAMESPACE": "other"}, profile="cloud", address="elsewhere:7233")
    assert (given["target_host"], given["namespace"]) == ("elsewhere:7233", "other")


@pytest.mark.parametrize(
    ("variables", "text", "message"),
    [
        ({"TEMPORAL_CONFIG_FILE": "/nowhere/temporal.toml"}, "", "'/nowhere/temporal.toml' does not exist"),
        ({"TEMPORAL_PROFILE": "absent"}, PROFILES, "Profile 'absent' not found"),
        ({"TEMPORAL_TLS_CLIENT_KEY_PATH": "/nowhere/key"}, "", "/nowhere/key: No such file or directory"),
        ({}, "[profile.default", "TOML parse error at line 1"),
    ],
)
async def test_settings_of_temporal_that_cannot_be_read_are_one_line(
    environment: dict[str, str], tmp_path: Path, variables: dict[str, str], text: str, message: str
) -> None:
    (tmp_path / "none.toml").write_text(text, encoding="utf-8")
    with pytest.raises(CommandError) as error:
        await connect(environment=environment | variables)
    assert str(error.value).startswith("Temporal's client settings cannot be read: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_every_command_that_needs_temporal_takes_its_place_and_a_profile() -> None:
    group: Any = typer.main.get_command(app)
    place = {"address", "namespace", "profile", "data_converter"}
    lacking = {name: place - {param.name for param in command.params} for name, command in group.commands.items()}
    assert {name for name, missing in lacking.items() if missing} == {"size"}


def test_a_place_is_passed_on_to_the_services_of_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TEMPORAL_ADDRESS", "TEMPORAL_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    assert not Target(namespace="other").is_given
    target = Target(profile="cloud", namespace="other")
    assert target.is_given
    assert target.variables == {"TEMPORAL_PROFILE": "cloud", "TEMPORAL_NAMESPACE": "other"}
    monkeypatch.setenv("TEMPORAL_ADDRESS", "there:7233")
    assert Target().is_given


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
