"""A Prometheus server for tests, as from Debian's package."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from temporal_batching.testing.servers import free_port

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin"
PROMETHEUS = shutil.which("prometheus", path=_PATH)
PROMTOOL = shutil.which("promtool", path=_PATH)

needs_prometheus = [
    pytest.mark.prometheus,
    pytest.mark.skipif(
        PROMETHEUS is None or PROMTOOL is None, reason="Prometheus is not installed: apt-get install prometheus"
    ),
]

CONFIGURATION = """
global: {{scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}}
rule_files: [{rules}]
scrape_configs:
  - job_name: batcher
    static_configs: [{{targets: ['{target}']}}]
"""


@dataclass
class Prometheus:
    """A server that scrapes one worker."""

    address: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an instant query."""
        found: list[dict[str, Any]] = self._get("query", query=expression)["result"]
        return found

    def alerts(self) -> dict[str, str]:
        """The state of each alert that is pending or firing."""
        return {alert["labels"]["alertname"]: alert["state"] for alert in self._get("alerts")["alerts"]}

    def _get(self, path: str, **parameters: str) -> Any:
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]


@contextmanager
def prometheus(directory: Path, *, target: str, rules: str) -> Iterator[Prometheus]:
    """A server that scrapes a target twice a second, and evaluates rules as often."""
    assert PROMETHEUS is not None
    (directory / "rules.yaml").write_text(rules, encoding="utf-8")
    file = directory / "prometheus.yml"
    file.write_text(CONFIGURATION.format(rules=directory / "rules.yaml", target=target), encoding="utf-8")
    address = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [
            PROMETHEUS,
            f"--config.file={file}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address={address}",
            "--log.level=error",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield Prometheus(address)
    finally:
        process.terminate()
        process.wait(timeout=20)
