"""The alert rules and the dashboard of ``deploy/``, with a real Prometheus that scrapes a real worker."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest
from temporalio.client import Client

from tests.support.databases import TestDatabase
from tests.support.observing import observed, unreachable
from tests.support.prometheus import DEPLOY, PROMTOOL, Prometheus, needs_prometheus, prometheus
from tests.support.service import entry
from tests.support.waiting import assert_eventually

pytestmark = needs_prometheus

RULES = DEPLOY / "prometheus" / "rules.yaml"


def expressions() -> Iterator[tuple[str, str]]:
    """Every query of the dashboard, with its panel's title and the variables' values filled in."""
    dashboard = json.loads((DEPLOY / "grafana" / "temporal-batching.json").read_text(encoding="utf-8"))
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            expression = re.sub(r"\$(namespace|batcher|shard)\b", ".*", target["expr"])
            yield panel["title"], expression.replace("$__rate_interval", "1m")


@pytest.mark.parametrize("command", [("check", "rules", "rules.yaml"), ("test", "rules", "rules.test.yaml")])
def test_promtool_accepts_the_rules_and_each_fires_for_its_cause(command: tuple[str, ...]) -> None:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *command], cwd=RULES.parent, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_configuration(tmp_path: Path) -> None:
    assert PROMTOOL is not None
    shutil.copytree(RULES.parent, tmp_path / "etc")
    command = [PROMTOOL, "check", "config", str(tmp_path / "etc" / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


async def test_an_outage_of_the_database_fires_its_alert_and_every_query_of_the_dashboard_has_data(
    client: Client, postgresql: TestDatabase, tmp_path: Path
) -> None:
    at_once = re.sub(r"^( +for:) .*$", r"\1 0s", RULES.read_text(encoding="utf-8"), flags=re.MULTILINE)
    async with observed(client, postgresql) as worker:
        with prometheus(tmp_path, target=worker.metrics, rules=at_once) as server:
            await worker.service.call("activity", [entry(n) for n in (1, 2, 3, 5000)])
            await assert_eventually(lambda: has_data(server), within=30)
            # Only what the batch deserves: a quarter of it was rejected.
            assert set(await alerts(server)) - {"BatcherRequestsRejected"} == set()
            with unreachable(postgresql):
                waiting = await worker.service.start("activity", [entry(4)])

                async def fires() -> None:
                    assert (await alerts(server)).get("BatcherSinkUnavailable") == "firing"

                await assert_eventually(fires)
            assert (await waiting.result())[0].outcome == "written"

            async def resolved() -> None:
                assert "BatcherSinkUnavailable" not in await alerts(server)

            await assert_eventually(resolved)


async def alerts(server: Prometheus) -> dict[str, str]:
    return await asyncio.to_thread(server.alerts)


async def has_data(server: Prometheus) -> None:
    def without() -> list[tuple[str, str]]:
        return [(title, query) for title, query in expressions() if not server.query(query)]

    try:
        missing = await asyncio.to_thread(without)
    except urllib.error.HTTPError as err:  # 503 while it starts
        raise AssertionError(err.read()) from err
    except OSError as err:
        raise AssertionError from err
    assert missing == []
