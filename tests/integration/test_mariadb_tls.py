"""A MariaDB server that asks for TLS: by the options of the sink's URL, certificate and name are verified."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa

from temporal_batching import Batch, Record, SinkUnavailable, SqlSink, WriteRequest
from temporal_batching.testing.servers import free_port
from tests.support.databases import TestDatabase, mariadb_database
from tests.support.mariadb import mariadb_server, missing
from tests.support.tls import Certificates, make_certificates, needs_openssl

pytestmark = [needs_openssl, pytest.mark.skipif(missing() is not None, reason=str(missing()))]

BATCH = Batch([WriteRequest("r1", [Record("entries", {"id": 1})])], id="main-0/1")


@dataclass
class Secured:
    """A database whose user must come by TLS, in a server whose certificate is for 127.0.0.1."""

    database: TestDatabase
    port: int
    certificates: Certificates

    def url(self, *, host: str = "127.0.0.1", **options: str) -> str:
        return f"mariadb://app:secret@{host}:{self.port}/own?" + "&".join(f"{k}={v}" for k, v in options.items())


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    certificates = make_certificates(tmp_path_factory.mktemp("certificates"), server="IP:127.0.0.1")
    port = free_port()
    options = (
        *("--skip-networking=0", "--bind-address=127.0.0.1", f"--port={port}", "--require-secure-transport=ON"),
        *(f"--ssl-cert={certificates.path('server.pem')}", f"--ssl-key={certificates.path('server.key')}"),
    )
    with mariadb_server(*options) as server, mariadb_database(server.url, "own", poolclass=sa.NullPool) as database:
        database.execute("CREATE TABLE entries (id integer PRIMARY KEY)")
        database.execute("CREATE USER app@'127.0.0.1' IDENTIFIED BY 'secret' REQUIRE SSL")
        database.execute("GRANT ALL ON own.* TO app@'127.0.0.1'")
        yield Secured(database, port, certificates)


@pytest.mark.parametrize(
    ("host", "options"), [("127.0.0.1", {}), ("localhost", {"ssl_check_hostname": "false"})], ids=["name", "no name"]
)
async def test_a_sink_writes_by_tls(secured: Secured, host: str, options: dict[str, str]) -> None:
    url = secured.url(host=host, ssl_ca=secured.certificates.path("ca.pem"), **options)
    (outcome,) = await written(secured.database.sink(url=url))
    assert outcome.kind.value in ("written", "duplicate")


async def test_a_server_of_another_authority_or_name_gets_nothing(secured: Secured, tmp_path: Path) -> None:
    other = make_certificates(tmp_path).path("ca.pem")
    for url, words in (
        (secured.url(ssl_ca=other), "certificate verify failed"),
        (secured.url(host="localhost", ssl_ca=secured.certificates.path("ca.pem")), "Hostname mismatch"),
    ):
        with pytest.raises(SinkUnavailable, match=words) as failed:
            await written(secured.database.sink(url=url))
        assert "secret" not in str(failed.value)


async def written(sink: SqlSink):  # type: ignore[no-untyped-def]
    await sink.open()
    return await sink.write(BATCH)
