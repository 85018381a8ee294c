"""A run ends for another version once for each change of the routing, whatever Temporal goes on saying."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.common import WorkerDeploymentVersion
from temporalio.exceptions import ApplicationError
from temporalio.workflow import ContinueAsNewVersioningBehavior

from temporal_batching.batcher.messages import read_control
from temporal_batching.batcher.upgrade import Upgrade, initial_behavior

times = st.integers(1, 6).map(float)


def test_a_run_ends_once_it_is_told_and_its_tasks_belong_elsewhere() -> None:
    upgrade = Upgrade()
    assert not upgrade.due(elsewhere=True), "nobody has told it"
    upgrade.tell(5.0)
    assert not upgrade.due(elsewhere=False), "it runs where it belongs"
    assert upgrade.due(elsewhere=True)
    assert upgrade.carry(elsewhere=True) == 5.0


def test_a_run_that_ends_for_another_reason_has_tried_nothing() -> None:
    upgrade = Upgrade(tried=2.0)
    upgrade.tell(5.0)
    assert upgrade.carry(elsewhere=False) == 2.0


def test_there_and_back_and_there_again_are_three_changes() -> None:
    tried = 0.0
    for changed_at in (1.0, 2.0, 3.0):
        upgrade = Upgrade(tried)
        upgrade.tell(changed_at)
        assert upgrade.due(elsewhere=True)
        tried = upgrade.carry(elsewhere=True)


def test_what_a_worker_says_late_takes_nothing_back() -> None:
    upgrade = Upgrade(tried=4.0)
    upgrade.tell(5.0)
    upgrade.tell(3.0)
    assert upgrade.due(elsewhere=True)
    assert upgrade.carry(elsewhere=True) == 5.0


@given(st.lists(st.lists(times, max_size=4), max_size=12))
def test_where_something_holds_a_shard_back_it_ends_no_more_runs_than_the_routing_had_changes(
    told: list[list[float]],
) -> None:
    """What each run is told, in any order and however often, while Temporal says of each that it belongs elsewhere."""
    tried, ended = 0.0, 0
    for run in told:
        upgrade = Upgrade(tried)
        for changed_at in run:
            upgrade.tell(changed_at)
        ended += upgrade.due(elsewhere=True)
        tried = upgrade.carry(elsewhere=True)
    assert ended <= len({changed_at for run in told for changed_at in run})


class Info:
    """As much of a run's info as is asked for."""

    def __init__(self, version: WorkerDeploymentVersion | None) -> None:
        self._version = version

    def get_current_deployment_version(self) -> WorkerDeploymentVersion | None:
        return self._version


@pytest.mark.parametrize(
    ("version", "behavior"),
    [
        (WorkerDeploymentVersion("batcher", "v1"), ContinueAsNewVersioningBehavior.AUTO_UPGRADE),
        (WorkerDeploymentVersion("", "a hash of the code"), None),
        (None, None),
    ],
)
def test_only_a_run_of_a_version_says_that_the_next_may_be_of_another(
    version: WorkerDeploymentVersion | None, behavior: ContinueAsNewVersioningBehavior | None
) -> None:
    info: Any = Info(version)
    assert initial_behavior(info) is behavior


@pytest.mark.parametrize("value", ["now", True, -1, float("nan"), float("inf"), [], {}])
def test_a_time_that_is_none_is_refused_to_its_sender(value: Any) -> None:
    with pytest.raises(ApplicationError, match=r"routed_at is a time in seconds since the epoch, or null"):
        read_control({"routed_at": value})
    assert read_control({"routed_at": 1_795_764_131.5}).routed_at == 1_795_764_131.5
