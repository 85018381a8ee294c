"""Records the catalog's metrics of one batcher through the Temporal SDK's meter."""

from __future__ import annotations

from typing import Any

from temporalio.client import Client
from temporalio.common import MetricMeter
from temporalio.runtime import Runtime

from temporal_batching.metrics.catalog import Kind, Metric


class Recorder:
    """Records metrics of one batcher.

    Args:
        meter: The SDK's: it publishes for Prometheus or OpenTelemetry, or nothing, by the runtime that it is of.
        namespace: The value of this label.
        batcher: Likewise.
    """

    def __init__(self, meter: MetricMeter, *, namespace: str = "", batcher: str = "") -> None:
        self._publishes = meter is not MetricMeter.noop
        self._meter = meter.with_additional_attributes({"namespace": namespace, "batcher": batcher})
        self._instruments: dict[Metric, Any] = {}

    @classmethod
    def of(cls, client: Client, *, batcher: str) -> Recorder:
        """The recorder of a client's runtime."""
        runtime = client.service_client.config.runtime or Runtime.default()
        return cls(runtime.metric_meter, namespace=client.namespace, batcher=batcher)

    @property
    def publishes(self) -> bool:
        """Whether anything becomes of what is recorded: the runtime has an exporter."""
        return self._publishes

    def add(self, metric: Metric, count: int, **labels: str) -> None:
        """Adds to a counter; 0 makes it appear."""
        self._instrument(metric).add(count, labels)

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Sets a gauge; NaN says that its value is not known."""
        self._instrument(metric).set(float(value), labels)

    def record(self, metric: Metric, value: float, **labels: str) -> None:
        """Records a value in a histogram."""
        self._instrument(metric).record(float(value), labels)

    def _instrument(self, metric: Metric) -> Any:
        instrument = self._instruments.get(metric)
        if instrument is None:
            make: Any = {
                Kind.COUNTER: self._meter.create_counter,
                Kind.GAUGE: self._meter.create_gauge_float,
                Kind.HISTOGRAM: self._meter.create_histogram_float,
            }[metric.kind]
            # Without a unit, which is in the name: the SDK's ``unit_suffix`` would append it once more.
            instrument = self._instruments[metric] = make(metric.name, metric.description)
        return instrument


NOTHING = Recorder(MetricMeter.noop)
"""Records nothing: for tests and simulations."""
