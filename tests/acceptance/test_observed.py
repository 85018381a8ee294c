"""A worker is observed, and a deployment is checked, by commands and settings alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from tests.acceptance.conftest import serves
from tests.support.observing import get
from tests.support.waiting import assert_eventually

from temporal_batching.testing.servers import free_port

if TYPE_CHECKING:
    from tests.acceptance.conftest import Start

SUBJECTS = ["temporal", "features", "queue", "nexus", "shard 0", "worker", "sink", "sink", "ledger", "clocks"]


async def test_a_worker_is_observed_and_checked_by_its_commands(start: Start, temporal: str, tmp_path: Path) -> None:
    metrics, health = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    name = ["--name", "observed"]
    here = {"TEMPORAL_ADDRESS": temporal, "BATCHING_SINK": f"sqlite:///{tmp_path / 'observed.db'}"}
    worker = await start("temporal-batching", "worker", *name, "--metrics", metrics, "--health", health, **here)
    await worker.says("Ctrl-C stops it")

    async def ready() -> None:
        status, body = await get(f"http://{health}/readyz")
        assert status == 200, body

    await assert_eventually(ready, within=30)
    await serves(temporal, "observed")
    assert 'batching_shard_up{batcher="observed"' in (await get(f"http://{metrics}/metrics"))[1]

    checked = await start("temporal-batching", "check", *name, **here)
    assert await checked.ends() == 0, checked.output
    assert [line[9:20].strip() for line in checked.lines[:-1]] == SUBJECTS
    assert checked.lines[-1] == "Nothing to repair."
    assert "activity.enableCallbacks" in checked.lines[3], "this server does not have it"

    there = ["--shards", "2", "--json"]
    missing = await start("temporal-batching", "check", *name, *there, **here)
    assert await missing.ends() == 1, missing.output
    failed = [one for one in json.loads(missing.lines[-1]) if one["level"] == "failed"]
    assert [one["subject"] for one in failed] == ["shard 1"]

    taken = await start("temporal-batching", "worker", *name, "--metrics", metrics, **here)
    assert await taken.ends() == 1
    assert f"error: metrics cannot be served on '{metrics}'" in taken.output


async def test_the_services_worker_takes_where_it_is_observed_from_the_environment(
    start: Start, temporal: str, tmp_path: Path
) -> None:
    health = f"127.0.0.1:{free_port()}"
    file = tmp_path / "batching.toml"
    file.write_text(f'name = "observed-service"\nhealth = "{health}"\nmetrics_interval = "5m"\n', encoding="utf-8")
    here = {"TEMPORAL_ADDRESS": temporal, "BATCHING_CONFIG": str(file)}
    worker = await start("batcher worker", BATCHING_METRICS=f"127.0.0.1:{free_port()}", **here)
    await worker.says("Ctrl-C stops it")

    async def alive() -> None:
        assert (await get(f"http://{health}/healthz"))[0] == 200

    await assert_eventually(alive)
    taken = await start("batcher worker", **here)
    assert await taken.ends() == 1
    assert f"error: health '{health}': " in taken.output


async def test_a_check_that_cannot_reach_temporal_says_so_and_still_looks_at_the_database(
    start: Start, tmp_path: Path
) -> None:
    here = {"TEMPORAL_ADDRESS": f"127.0.0.1:{free_port()}"}
    database = ["--sink", f"sqlite:///{tmp_path / 'nothing.db'}"]
    checked = await start("temporal-batching", "check", *database, **here)
    assert await checked.ends() == 1, checked.output
    assert [line[:20].split() for line in checked.lines[:3]] == [
        ["failed", "temporal"],
        ["skipped", "shards"],
        ["failed", "sink"],
    ]
    assert "batching_ledger does not exist" in checked.output
    unknown = await start("temporal-batching", "check", "--sink", "nosuch://h/d", **here)
    assert await unknown.ends() == 2, unknown.output
