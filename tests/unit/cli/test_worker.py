"""The worker's command makes the worker that its settings describe."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion

from temporal_batching import MemorySink
from temporal_batching.cli import worker
from temporal_batching.settings import load


@pytest.mark.parametrize(
    ("flags", "version"),
    [({}, None), ({"deployment_name": "batcher", "build_id": "v1"}, WorkerDeploymentVersion("batcher", "v1"))],
)
def test_a_version_is_a_matter_of_two_settings(
    flags: dict[str, str], version: WorkerDeploymentVersion | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {}

    def make(client: Any, **given: Any) -> None:
        options.update(given)

    monkeypatch.setattr(worker, "Worker", make)
    client: Any = None
    worker.batcher_worker(client, load(flags), MemorySink())
    config = options["deployment_config"]
    assert (config and config.version) == version
    if config is not None:
        assert config.default_versioning_behavior is VersioningBehavior.UNSPECIFIED, (
            "the plugin pins the batcher's runs"
        )
