"""`batching_runtime`: a runtime of the Temporal SDK whose histograms have buckets that fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from temporalio.runtime import OpenTelemetryConfig, PrometheusConfig, Runtime, TelemetryConfig

from temporal_batching.errors import AddressUnusable
from temporal_batching.metrics.catalog import METRICS

HISTOGRAM_BUCKETS: Mapping[str, Sequence[float]] = {metric.name: metric.buckets for metric in METRICS if metric.buckets}
"""For ``histogram_bucket_overrides`` of a runtime of one's own: upper bounds by metric. Without them the SDK uses 50 to
10,000 for every histogram, and no quantile of seconds can be computed."""


def batching_runtime(
    metrics: str | PrometheusConfig | OpenTelemetryConfig, *, telemetry: TelemetryConfig | None = None
) -> Runtime:
    """Makes a runtime that publishes metrics, this library's with buckets that fit.

    Pass it to `Client.connect`; the workers of that client publish through it. One runtime serves a process: each has
    threads of its own.

    Example:
        ```python
        from temporal_batching import batching_runtime
        from temporalio.client import Client

        async def connect() -> Client:
            return await Client.connect("localhost:7233", runtime=batching_runtime("127.0.0.1:9464"))
        ```

    Args:
        metrics: Where Prometheus finds them, as ``host:port`` with an IP address; or one of the SDK's own
            configurations, whose buckets for other metrics are kept.
        telemetry: Logging, tags and prefix; its ``metrics`` is not used.

    Raises:
        AddressUnusable: Nothing can listen on the address.
    """
    config = PrometheusConfig(bind_address=metrics) if isinstance(metrics, str) else metrics
    config = replace(
        config, histogram_bucket_overrides={**HISTOGRAM_BUCKETS, **(config.histogram_bucket_overrides or {})}
    )
    try:
        return Runtime(telemetry=replace(telemetry or TelemetryConfig(), metrics=config))
    except (RuntimeError, ValueError) as err:
        if not isinstance(config, PrometheusConfig):
            raise
        raise AddressUnusable(
            f"metrics cannot be served on {config.bind_address!r}: {err}; an IP address and a free port, such as "
            "127.0.0.1:9464"
        ) from None
