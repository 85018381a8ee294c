"""A Temporal behind mutual TLS: certificates made with ``openssl``, and a proxy in front of the development server."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

OPENSSL = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed: apt-get install openssl")

SERVER_NAME = "temporal.test"
"""The name in the server's certificate, which is not the one it is reached by."""


@dataclass(frozen=True)
class Certificates:
    """Files of an authority, of a server and of a client."""

    directory: Path

    def path(self, name: str) -> str:
        return str(self.directory / name)

    @property
    def variables(self) -> dict[str, str]:
        """Temporal's own variables for a client."""
        return {
            "TEMPORAL_TLS_SERVER_CA_CERT_PATH": self.path("ca.pem"),
            "TEMPORAL_TLS_SERVER_NAME": SERVER_NAME,
            "TEMPORAL_TLS_CLIENT_CERT_PATH": self.path("client.pem"),
            "TEMPORAL_TLS_CLIENT_KEY_PATH": self.path("client.key"),
        }


def make_certificates(directory: Path, *, server: str = f"DNS:{SERVER_NAME}") -> Certificates:
    """An authority, and what it has signed for a server of this name and for a client."""
    made = Certificates(directory)

    def request(name: str, *options: str) -> None:
        new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-batch"]
        files = ["-keyout", made.path(f"{name}.key"), "-out", made.path(f"{name}.pem")]
        command = [str(OPENSSL), "req", "-x509", *new, *files, "-subj", f"/CN={name}", *options]
        subprocess.run(command, check=True, capture_output=True, timeout=60)

    request("ca")
    signed = [
        "-CA",
        made.path("ca.pem"),
        "-CAkey",
        made.path("ca.key"),
        "-addext",
        "basicConstraints=critical,CA:FALSE",
    ]
    request("server", *signed, "-addext", f"subjectAltName={server}")
    request("client", *signed)
    return made


@asynccontextmanager
async def behind_tls(target: str, certificates: Certificates) -> AsyncIterator[str]:
    """The address of a proxy that asks for a client's certificate, and passes everything on to a server without TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.path("server.pem"), certificates.path("server.key"))
    context.load_verify_locations(certificates.path("ca.pem"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])
    host, _, port = target.rpartition(":")

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pass_on(reader, back), pass_on(there, writer))

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
