"""How connections to a database are opened."""

from __future__ import annotations

from datetime import timedelta

import pytest

from temporal_batching.sinks.sql.connect import create_engine

pytest.importorskip("pymysql", reason="needs the extra mariadb")
pytest.importorskip("psycopg", reason="needs the extra postgresql")


def connects_with(url: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The options that the driver is given."""
    engine = create_engine(url, connect_timeout=timedelta(seconds=5))
    seen: dict[str, object] = {}

    def connect(**options: object) -> None:
        seen.update(options)
        raise ConnectionError

    monkeypatch.setattr(engine.dialect.loaded_dbapi, "connect", connect)
    with pytest.raises(ConnectionError):
        engine.connect()
    return seen


@pytest.mark.parametrize(
    ("url", "offers_tls"),
    [
        ("mariadb://app@localhost/app", True),
        ("mariadb://app@localhost/app?unix_socket=/run/mysqld/mysqld.sock", False),
        ("mariadb://app@localhost/app?unix_socket=/run/mysqld/mysqld.sock&ssl_ca=/etc/ca.pem", True),
    ],
)
def test_a_connection_through_a_local_socket_offers_no_tls_unless_its_url_asks_for_it(
    url: str, offers_tls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert connects_with(url, monkeypatch).get("ssl_disabled", False) is not offers_tls


def test_the_tls_options_of_a_url_reach_postgresqls_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql://app@db/app?sslmode=verify-full&sslrootcert=/etc/ssl/db.pem"
    seen = connects_with(url, monkeypatch)
    assert (seen["sslmode"], seen["sslrootcert"]) == ("verify-full", "/etc/ssl/db.pem")
