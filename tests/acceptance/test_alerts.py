"""Every alert has its paragraph, and every file of ``deploy/`` names metrics that there are."""

from __future__ import annotations

import json
import re

import pytest
from tests.acceptance.conftest import ROOT

from temporal_batching.metrics import METRICS

RULES = (ROOT / "deploy" / "prometheus" / "rules.yaml").read_text(encoding="utf-8")
DASHBOARD = ROOT / "deploy" / "grafana" / "temporal-batching.json"
ALERTS = re.findall(r"^ +- alert: (\w+)$", RULES, re.MULTILINE)
NAMES = {metric.name for metric in METRICS}
SUFFIXES = ("", "_bucket", "_sum", "_count")


def test_each_alert_has_a_paragraph_to_which_its_rule_leads_and_each_paragraph_an_alert() -> None:
    page = (ROOT / "docs" / "how-to" / "alerts.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\w+)$", page, re.MULTILINE) == ALERTS
    assert re.findall(r"runbook: (\S+)", RULES) == [f"docs/how-to/alerts.md#{alert.lower()}" for alert in ALERTS]


def test_each_alert_is_tested_and_has_a_severity_and_a_summary() -> None:
    tests = (ROOT / "deploy" / "prometheus" / "rules.test.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r'alertname="(\w+)"', tests)) == set(ALERTS)
    assert len(re.findall(r"severity: (?:critical|warning)$", RULES, re.MULTILINE)) == len(ALERTS)
    assert len(re.findall(r"^ +summary: '.+'$", RULES, re.MULTILINE)) == len(ALERTS)


@pytest.mark.parametrize("file", ["rules.yaml", "rules.test.yaml", "temporal-batching.json"])
def test_a_file_names_only_metrics_that_there_are(file: str) -> None:
    (path,) = (ROOT / "deploy").rglob(file)
    used = set(re.findall(r"\bbatching_\w+", path.read_text(encoding="utf-8")))
    assert used
    assert used <= {name + suffix for name in NAMES for suffix in SUFFIXES}


def test_the_dashboard_has_a_place_and_a_query_for_each_panel() -> None:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert panel["type"] == "row" or all(target["expr"] for target in panel["targets"])
    shown = {name for name in NAMES if name in DASHBOARD.read_text(encoding="utf-8")}
    assert NAMES - shown == set()
