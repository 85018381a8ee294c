"""What a check makes of what it sees."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.api.namespace.v1 import NamespaceInfo

from temporal_batching import BatcherHandle, BatcherStats, MemorySink, SinkConfigurationError, SinkUnavailable
from temporal_batching.health.clocks import clock_findings, offset
from temporal_batching.health.findings import Finding, any_failed
from temporal_batching.health.nexus import NexusState, nexus_finding
from temporal_batching.health.report import look_at_sink
from temporal_batching.health.shards import ledger_findings, stats_findings, timeout_findings
from temporal_batching.health.temporal import feature_findings, version_finding
from temporal_batching.policy import BatchPolicy

CLIENT: Any = None
STATS = BatcherStats("main", 0, ledger="L1", policy=BatchPolicy().to_wire())


def levels(findings: Iterable[Finding]) -> list[str]:
    return [finding.level.value for finding in findings]


@pytest.mark.parametrize(
    ("version", "level"),
    [("1.32.0", "ok"), ("1.28.0-151.4", "ok"), ("2.0", "ok"), ("1.27.9", "failed"), ("0.30", "failed"), ("", "ok")],
)
def test_a_server_that_is_too_old_is_a_failure(version: str, level: str) -> None:
    assert version_finding("Temporal", version).level == level


def test_a_feature_that_is_missing_is_named() -> None:
    everything = NamespaceInfo.Capabilities(async_update=True, standalone_activities=True)
    assert levels(feature_findings(everything)) == ["ok"]
    without = list(feature_findings(NamespaceInfo.Capabilities(async_update=True)))
    assert levels(without) == ["warning"]
    assert "standalone activities" in without[0].text
    assert levels(feature_findings(NamespaceInfo.Capabilities())) == ["failed", "warning"]


@pytest.mark.parametrize(
    ("changes", "level", "says"),
    [
        ({}, None, ""),
        ({"breaker": "open", "sink_error": "refused", "pending": 3}, "failed", "refused; 3 requests wait"),
        ({"paused": True}, "warning", "resume"),
        ({"draining": True}, "warning", "resume"),
        ({"idle_cycles": 2}, "warning", "2 runs in a row"),
        ({"pending": 9_000}, "warning", "90% full"),
        ({"requeued": 4}, "warning", "4 requests wait for a retry"),
    ],
)
def test_what_a_shard_says_that_somebody_should_look_at(changes: dict[str, Any], level: str | None, says: str) -> None:
    found = list(stats_findings("shard 0", dataclasses.replace(STATS, **changes)))
    assert levels(found) == ([level] if level else [])
    assert all(says in finding.text for finding in found)


@pytest.mark.parametrize(
    ("state", "level", "says"),
    [
        (NexusState([], True, True), "ok", "--target-namespace there --target-task-queue batcher-queue`"),
        (NexusState([], None, False), "ok", "not used: no endpoint leads here"),
        (NexusState([], False, True), "ok", "set `activity.enableCallbacks` to true"),
        (NexusState(["a", "b"], True, True), "ok", "a, b leads to 'batcher-queue'"),
        (NexusState(["a"], None, True), "ok", "a leads to"),
        (
            NexusState(["a"], False, True),
            "failed",
            "the server refuses every operation: set `activity.enableCallbacks`",
        ),
        (NexusState(["a"], True, False), "failed", "no worker polls 'batcher-queue' for Nexus tasks"),
    ],
)
def test_what_callers_by_nexus_lack_is_a_failure_where_an_endpoint_leads_here(
    state: NexusState, level: str, says: str
) -> None:
    found = nexus_finding(BatcherHandle(CLIENT, "main"), "there", state)
    assert found.level == level
    assert says in found.text


def test_a_shard_of_another_ledger_is_a_failure_with_the_command_that_adopts_it() -> None:
    handle = BatcherHandle(CLIENT, "main", shards=2)
    assert levels(ledger_findings(handle, [STATS], "L1", whose="the worker")) == ["ok"]
    unwritten = dataclasses.replace(STATS, ledger=None)
    assert levels(ledger_findings(handle, [unwritten], "L2", whose="the worker")) == ["ok"]
    (found,) = ledger_findings(handle, [STATS, unwritten], "L2", whose="the worker")
    assert (found.level, found.subject) == ("failed", "ledger")
    assert "`temporal-batching adopt-ledger --name main --shards 2 --identity L2`" in found.text
    assert levels(ledger_findings(handle, [dataclasses.replace(STATS, ledger="")], None, whose="w")) == ["ok"]
    assert levels(ledger_findings(handle, [STATS], None, whose="w")) == ["failed"]


def test_a_sink_that_outlasts_a_flush_is_a_warning_with_both_limits() -> None:
    short = dataclasses.replace(STATS, shard=1, policy=BatchPolicy(flush_timeout=timedelta(seconds=10)).to_wire())
    assert levels(timeout_findings([STATS, short], None, whose="the worker")) == []
    assert levels(timeout_findings([STATS, short], 9.5, whose="the worker")) == []
    assert levels(timeout_findings([STATS], 25.0, whose="the worker")) == []
    (found,) = timeout_findings([STATS, short], 25.0, whose="the worker")
    assert found.level == "warning"
    assert "a write may take 25 s, and a flush is given up after 10 s" in found.text
    assert levels(timeout_findings([short], 10.0, whose="the worker")) == ["warning"]


async def test_a_sinks_own_limit_of_a_write_is_in_its_report() -> None:
    class Bounded(MemorySink):
        write_timeout = timedelta(seconds=45)

    assert (await look_at_sink(Bounded(), opened=False)).write_seconds == 45
    assert (await look_at_sink(MemorySink(), opened=False)).write_seconds is None


@pytest.mark.parametrize(
    ("seconds", "level"), [(0.0, "ok"), (0.9, "ok"), (-0.9, "ok"), (1.5, "warning"), (-4.9, "warning"), (6, "failed")]
)
def test_a_clock_that_differs_is_named_with_its_direction(seconds: float, level: str) -> None:
    (found,) = clock_findings({"this machine": 0.0, "the database": seconds})
    assert found.level == level
    if level != "ok":
        assert "the clock of the database" in found.text
        assert ("ahead of" if seconds > 0 else "behind") in found.text


@given(st.floats(-1e4, 1e4), st.floats(0, 10), st.floats(0, 10))
def test_an_offset_is_never_more_than_the_real_one(ahead: float, before: float, after: float) -> None:
    """What was measured between two moments of another clock says how far the clocks differ at least."""
    moment = 1_000_000.0
    measured = offset(moment + ahead, not_before=moment - before, not_after=moment + after)
    assert abs(measured) <= abs(ahead) + 1e-6
    assert measured == 0 or (measured > 0) == (ahead > 0)
    assert abs(ahead) - abs(measured) <= before + after + 1e-6


async def test_a_sink_is_opened_and_closed_to_look_at_it_and_its_complaint_is_kept() -> None:
    class Broken(MemorySink):
        error: Exception | None = None
        closed = 0

        async def open(self) -> None:
            if self.error:
                raise self.error

        async def close(self) -> None:
            self.closed += 1

    sink = Broken()
    assert (await look_at_sink(sink, opened=False)).problem is None
    for error, problem, configuration in (
        (SinkUnavailable("refused"), "refused", False),
        (SinkConfigurationError("no ledger"), "no ledger", True),
        (ValueError("a value"), "Broken.check raised ValueError", True),
    ):
        sink.error = error
        report = await look_at_sink(sink, opened=False)
        assert (report.problem, report.configuration) == (problem, configuration)
    assert sink.closed == 4


async def test_what_is_wrong_with_a_table_is_a_finding_of_its_own() -> None:
    class Lacks(MemorySink):
        async def check_tables(self) -> Sequence[str]:
            return ["this role lacks INSERT on entries"]

    report = await look_at_sink(Lacks(), opened=False)
    assert (report.problem, report.tables) == (None, ["this role lacks INSERT on entries"])


def test_a_finding_is_one_line() -> None:
    finding = version_finding("Temporal at\nnowhere", "1.20.0")
    assert str(finding).startswith("failed   temporal   Temporal at nowhere, server 1.20.0")
    assert "\n" not in str(finding)
    assert any_failed([finding])
