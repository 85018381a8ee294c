"""A meter that keeps what is recorded, in place of the SDK's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from temporal_batching.metrics.catalog import METRICS, Kind, Metric
from temporal_batching.metrics.recorder import Recorder

Series = tuple[str, tuple[tuple[str, str], ...]]


class Kept(Recorder):
    """A recorder that keeps what is recorded, by metric and labels.

    Attributes:
        counters: Their sums.
        gauges: Their last values.
        histograms: All values.
    """

    def __init__(self) -> None:
        self.counters: dict[Series, int] = {}
        self.gauges: dict[Series, float] = {}
        self.histograms: dict[Series, list[float]] = {}

    @property
    def publishes(self) -> bool:
        return True

    def add(self, metric: Metric, count: int, **labels: str) -> None:
        assert count >= 0, f"{metric.name}: a counter never falls"
        name = _series(metric, Kind.COUNTER, labels)
        self.counters[name] = self.counters.get(name, 0) + count

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        self.gauges[_series(metric, Kind.GAUGE, labels)] = float(value)

    def record(self, metric: Metric, value: float, **labels: str) -> None:
        self.histograms.setdefault(_series(metric, Kind.HISTOGRAM, labels), []).append(value)

    def value(self, metric: Metric, **labels: str) -> Any:
        """The sum, the last value or all values of one series."""
        kept: dict[Kind, Mapping[Series, Any]] = {
            Kind.COUNTER: self.counters,
            Kind.GAUGE: self.gauges,
            Kind.HISTOGRAM: self.histograms,
        }
        return kept[metric.kind][_series(metric, metric.kind, labels)]

    def is_unknown(self, metric: Metric, **labels: str) -> bool:
        """Whether a gauge says that its value is not known."""
        return math.isnan(self.value(metric, **labels))


def _series(metric: Metric, kind: Kind, labels: Mapping[str, str]) -> Series:
    assert metric in METRICS
    assert metric.kind is kind
    assert set(labels) == set(metric.labels), f"{metric.name} has the labels {metric.labels}, not {sorted(labels)}"
    assert all(isinstance(value, str) for value in labels.values())
    return metric.name, tuple(sorted(labels.items()))
