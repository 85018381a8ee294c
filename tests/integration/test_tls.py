"""Temporal behind TLS that asks for a client's certificate, reached by Temporal's own settings."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from temporalio.client import Client

from temporal_batching.cli.connect import connect
from temporal_batching.cli.console import CommandError
from tests.support.tls import SERVER_NAME, Certificates, behind_tls, make_certificates, needs_openssl

pytestmark = needs_openssl


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest_asyncio.fixture
async def address(client: Client, certificates: Certificates) -> AsyncIterator[str]:
    async with behind_tls(client.service_client.config.target_host, certificates) as address:
        yield address


async def test_mutual_tls_is_set_up_by_variables(address: str, certificates: Certificates, tmp_path: Path) -> None:
    nothing = {"TEMPORAL_CONFIG_FILE": str(tmp_path / "none.toml")}
    (tmp_path / "none.toml").touch()
    connected = await connect(address=address, environment=nothing | certificates.variables)
    assert connected.namespace == "default"


async def test_mutual_tls_is_set_up_by_a_profile(address: str, certificates: Certificates, tmp_path: Path) -> None:
    file = tmp_path / "temporal.toml"
    file.write_text(
        f"""
        [profile.cloud]
        address = "{address}"
        [profile.cloud.tls]
        server_name = "{SERVER_NAME}"
        server_ca_cert_path = "{certificates.path("ca.pem")}"
        client_cert_path = "{certificates.path("client.pem")}"
        client_key_path = "{certificates.path("client.key")}"
        """,
        encoding="utf-8",
    )
    connected = await connect(profile="cloud", environment={"TEMPORAL_CONFIG_FILE": str(file)})
    assert connected.service_client.config.target_host == address


@pytest.mark.parametrize(
    ("left_out", "advice"),
    [
        ("CLIENT", "it closed the connection. Where it wants TLS, set TEMPORAL_TLS=true; where it wants a client's"),
        ("_CERT_PATH", "the client's certificate or its key cannot be used"),
        ("SERVER_CA", "an authority that is not known here. Set TEMPORAL_TLS_SERVER_CA_CERT_PATH"),
        ("SERVER_NAME", "its certificate is for another name. Set TEMPORAL_TLS_SERVER_NAME"),
        ("TLS", "it closed the connection. Where it wants TLS, set TEMPORAL_TLS=true"),
    ],
)
async def test_what_is_missing_is_named(
    address: str, certificates: Certificates, tmp_path: Path, left_out: str, advice: str
) -> None:
    (tmp_path / "none.toml").touch()
    variables = {name: path for name, path in certificates.variables.items() if left_out not in name}
    with pytest.raises(CommandError) as error:
        await connect(address=address, environment=variables | {"TEMPORAL_CONFIG_FILE": str(tmp_path / "none.toml")})
    assert advice in str(error.value)
    assert "\n" not in str(error.value)
