"""A batcher's worker that is observed: metrics, probes, and a database that goes away and comes back."""

from __future__ import annotations

import asyncio
import re
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta

import sqlalchemy as sa
from temporalio.client import Client

from temporal_batching import BatchPolicy, SqlSink, batching_runtime
from temporal_batching.testing.servers import free_port
from tests.support.databases import TestDatabase
from tests.support.service import Service, running

POLICY = BatchPolicy(
    linger=timedelta(milliseconds=100),
    retry_initial=timedelta(milliseconds=100),
    retry_max=timedelta(milliseconds=300),
)

LINE = re.compile(r"^(\w+)\{([^}]*)\} (\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="([^"]*)"')


async def get(url: str) -> tuple[int, str]:
    """Status and body of an answer; status 0 if there is none."""

    def read() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as err:
            return err.code, err.read().decode()
        except OSError as err:
            return 0, str(err)

    return await asyncio.to_thread(read)


class Observed:
    """A service whose worker publishes metrics and answers probes.

    Attributes:
        service: The batcher and its callers.
        metrics: Where Prometheus finds it.
        health: Where probes do.
    """

    def __init__(self, service: Service, metrics: str, health: str) -> None:
        self.service = service
        self.metrics = metrics
        self.health = health

    async def scraped(self) -> dict[str, list[tuple[dict[str, str], float]]]:
        """What is published of this batcher: labels and value of each series, by name."""
        _, text = await get(f"http://{self.metrics}/metrics")
        found: dict[str, list[tuple[dict[str, str], float]]] = {}
        for name, labels, value in LINE.findall(text):
            pairs = dict(LABEL.findall(labels))
            if pairs.get("batcher") == self.service.name:
                found.setdefault(name, []).append((pairs, float(value)))
        return found

    async def value(self, name: str, **labels: str) -> float:
        """The value of the one series with these labels."""
        found = [v for have, v in (await self.scraped()).get(name, ()) if labels.items() <= have.items()]
        assert len(found) == 1, f"{len(found)} series of {name}"
        return found[0]

    async def probe(self, path: str) -> tuple[int, str]:
        return await get(f"http://{self.health}{path}")


@asynccontextmanager
async def observed(client: Client, database: TestDatabase, **options: object) -> AsyncIterator[Observed]:
    """A batcher whose worker is observed; its table is ``entries``."""
    metrics, health = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    runtime = batching_runtime(metrics)
    connected = await Client.connect(client.service_client.config.target_host, runtime=runtime)
    database.execute("CREATE TABLE entries (n int CHECK (n < 1000))")
    sink = SqlSink(database.url, connect_timeout=timedelta(seconds=2))
    plugin = {"health": health, "metrics_interval": timedelta(seconds=1), **options}
    async with running(connected, sink, POLICY, plugin_options=plugin) as service:
        yield Observed(service, metrics, health)


@contextmanager
def unreachable(postgresql: TestDatabase) -> Iterator[None]:
    """A database of PostgreSQL that accepts no connection and ends those that there are."""
    url = sa.make_url(postgresql.url)
    maintenance = sa.create_engine(url.set(database="postgres"), isolation_level="AUTOCOMMIT")
    postgresql.engine.dispose()
    with maintenance.connect() as connection:
        connection.exec_driver_sql(f"ALTER DATABASE {url.database} WITH ALLOW_CONNECTIONS false")
        connection.exec_driver_sql(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{url.database}'"
        )
        try:
            yield
        finally:
            connection.exec_driver_sql(f"ALTER DATABASE {url.database} WITH ALLOW_CONNECTIONS true")
    maintenance.dispose()
