"""The SDK's runtime publishes what monitoring wants, here for Prometheus."""

from __future__ import annotations

import asyncio
import urllib.request

from temporalio.client import Client
from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig

from temporal_batching import MemorySink
from temporal_batching.testing.servers import free_port
from tests.support.service import entry, running
from tests.support.waiting import assert_eventually

EXPECTED = {
    "batching_batches": ['shard="0"', 'trigger="linger"'],
    "batching_requests": ['shard="0"', 'outcome="written"'],
    "batching_batch_records_count": ['shard="0"'],
    "batching_flush_seconds_count": ['shard="0"'],
}


async def test_batches_outcomes_and_durations_are_published(client: Client) -> None:
    address = f"127.0.0.1:{free_port()}"
    runtime = Runtime(telemetry=TelemetryConfig(metrics=PrometheusConfig(bind_address=address)))
    observed = await Client.connect(client.service_client.config.target_host, runtime=runtime)
    sink = MemorySink(reject=lambda request: "no" if request.records[0].values["n"] == 3 else None)
    async with running(observed, sink) as service:
        await service.call("activity", [entry(n) for n in range(5)])

        async def published() -> None:
            text = await asyncio.to_thread(_read, f"http://{address}/metrics")
            lines = [line for line in text.splitlines() if service.name in line]
            for name, labels in EXPECTED.items():
                found = [line for line in lines if line.partition("{")[0] == name]
                assert any(all(label in line for label in labels) for line in found), (name, lines)

        await assert_eventually(published)


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())
