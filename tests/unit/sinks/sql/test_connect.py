"""How connections to a database are opened."""

from __future__ import annotations

from datetime import timedelta

import pytest

from temporal_batching.sinks.sql.connect import create_engine

pytest.importorskip("pymysql", reason="needs the extra mariadb")


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
    engine = create_engine(url, connect_timeout=timedelta(seconds=5))
    seen = {}

    def connect(**options: object) -> None:
        seen.update(options)
        raise ConnectionError

    monkeypatch.setattr(engine.dialect.loaded_dbapi, "connect", connect)
    with pytest.raises(ConnectionError):
        engine.connect()
    assert seen.get("ssl_disabled", False) is not offers_tls
