"""A runtime with buckets that fit, and clear words about an address that does not."""

from __future__ import annotations

import urllib.request
from typing import Any

import pytest
from temporalio.common import MetricMeter
from temporalio.runtime import PrometheusConfig, TelemetryConfig

from temporal_batching import AddressUnusable, batching_runtime
from temporal_batching.metrics import METRICS, Kind, catalog
from temporal_batching.metrics.recorder import Recorder
from temporal_batching.testing.servers import free_port


def scrape(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


@pytest.fixture(scope="module")
def published() -> str:
    """Everything that is published once each metric was recorded once."""
    address = f"127.0.0.1:{free_port()}"
    mine = PrometheusConfig(bind_address=address, histogram_bucket_overrides={"mine": [1.0, 2.0]})
    runtime = batching_runtime(mine, telemetry=TelemetryConfig(global_tags={"site": "north"}))
    recorder = Recorder(runtime.metric_meter, namespace="default", batcher="main")
    record: dict[Kind, Any] = {Kind.COUNTER: recorder.add, Kind.GAUGE: recorder.set, Kind.HISTOGRAM: recorder.record}
    for metric in METRICS:
        record[metric.kind](metric, 0, **dict.fromkeys(metric.labels, "0"))
    runtime.metric_meter.create_histogram("mine").record(1)
    assert recorder.publishes
    return scrape(address)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_metric_is_published_under_its_name_with_its_labels_and_buckets(
    published: str, metric: catalog.Metric
) -> None:
    assert f"# TYPE {metric.name} {metric.kind}\n" in published
    assert f"# HELP {metric.name} {metric.description}\n" in published
    suffix = "_count" if metric.kind is Kind.HISTOGRAM else ""
    (line,) = [line for line in published.splitlines() if line.startswith(f"{metric.name}{suffix}{{")]
    labels = {"namespace": "default", "batcher": "main", "site": "north", **dict.fromkeys(metric.labels, "0")}
    assert all(f'{name}="{value}"' in line for name, value in labels.items())
    bounds = [line for line in published.splitlines() if line.startswith(f"{metric.name}_bucket{{")]
    assert len(bounds) == (len(metric.buckets) + 1 if metric.buckets else 0)
    assert all(any(f'le="{bound:g}"' in line for line in bounds) for bound in metric.buckets)


def test_buckets_of_ones_own_metrics_are_kept(published: str) -> None:
    assert sum(line.startswith("mine_bucket{") for line in published.splitlines()) == 3


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:99999", "metrics.example:9464"])
def test_an_address_where_nothing_can_listen_is_named(address: str) -> None:
    with pytest.raises(AddressUnusable, match=r"metrics cannot be served on '.*': .*; an IP address and a free port"):
        batching_runtime(address)


def test_a_runtime_without_exporter_publishes_nothing() -> None:
    assert not Recorder(MetricMeter.noop, namespace="default", batcher="main").publishes
