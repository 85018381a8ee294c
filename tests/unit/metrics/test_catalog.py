"""The list of metrics is consistent, and the page that documents it says the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from temporal_batching.metrics import HISTOGRAM_BUCKETS, METRICS, Kind, Metric

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "metrics.md"
ROW = re.compile(r"^\| `(batching_\w+)` \| (\w+) \| ([\w ]+) \| ([^|]*) \| ([^|]+) \|$", re.MULTILINE)


def described(metric: Metric) -> tuple[str, str, str, str]:
    return metric.name, metric.kind.value, metric.unit, ", ".join(metric.labels)


def test_the_page_lists_every_metric_with_its_kind_unit_labels_and_meaning() -> None:
    rows = ROW.findall(PAGE.read_text(encoding="utf-8"))
    assert [(*row[:3], row[3].strip()) for row in rows] == [described(metric) for metric in METRICS]
    assert all(len(row[4].split()) >= 3 for row in rows)


def test_the_page_gives_the_buckets_for_a_runtime_of_ones_own() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for metric in METRICS:
        if metric.buckets:
            assert f"| `{metric.name}` | {', '.join(f'{bound:g}' for bound in metric.buckets)} |" in text


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_name_says_what_prometheus_expects_of_it(metric: Metric) -> None:
    assert re.fullmatch(r"batching_[a-z_]+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
    assert bool(metric.buckets) == (metric.kind is Kind.HISTOGRAM)
    assert list(metric.buckets) == sorted(set(metric.buckets))
    if metric.unit in ("seconds", "bytes"):
        assert metric.unit in metric.name
    if metric.name.startswith("batching_shard_"):
        assert metric.labels[0] == "shard"
    assert set(HISTOGRAM_BUCKETS) == {one.name for one in METRICS if one.buckets}


def test_no_name_is_used_twice() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
