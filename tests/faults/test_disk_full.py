"""The database answers and cannot store: its disk is full, or its file read-only."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest
from temporalio.client import Client

from temporal_batching.audit.rules import CallResult
from tests.faults.auditing import full_disk, verdicts
from tests.faults.scene import NewScene, Scene
from tests.faults.worker import Trouble
from tests.support.databases import TestDatabase
from tests.support.waiting import assert_eventually

pytestmark = pytest.mark.faults


@contextlib.contextmanager
def _trouble(scene: Scene) -> Iterator[None]:
    if scene.database.dialect == "postgresql":
        with full_disk(scene.database):
            yield
    else:
        scene.trouble_file.touch()
        yield
        scene.trouble_file.unlink()


@pytest.mark.parametrize(
    ("database", "trouble", "words"),
    [
        ("postgresql", None, "No space left"),
        ("sqlite", Trouble.FULL, "full"),
        ("sqlite", Trouble.READ_ONLY, "readonly"),
    ],
    ids=["postgresql, full", "sqlite, full", "sqlite, read-only"],
    indirect=["database"],
)
async def test_a_database_that_cannot_store_is_waited_for(
    database: TestDatabase,
    trouble: Trouble | None,
    words: str,
    client: Client,
    new_scene: NewScene,
) -> None:
    scene = await new_scene(client, database)
    await scene.start_batcher(trouble=trouble)
    await scene.until_notified(scene.ask_each(count=2))
    with _trouble(scene):
        # Larger than what is left of a page of the file.
        patient = scene.ask_each(count=5, padding=5_000)
        hasty = scene.ask_each(count=2, timeout=6.0, padding=5_000)

        async def waits() -> None:
            (stats,) = await scene.stats()
            assert stats.breaker == "open"
            assert words in str(stats.sink_error)
            # Each request may be one that there is room for: the sink asks for a retry of each, and raises nothing.
            assert stats.flush_failures + stats.retries > 2 * stats.requeued

        await assert_eventually(waits)
        await scene.until_notified(hasty, within=20)
        (stats,) = await scene.stats()
    usable = time.time()
    await scene.until_notified(within=30)
    print(
        f"\n{stats.sink_error}: {stats.flush_failures} failures, {stats.retries} retries, "
        f"hasty {verdicts(hasty)}; the patient were notified "
        f"{max(one.notified_at for one in patient) - usable:.1f} s after there was room again"
    )
    await scene.audit()
    assert (await scene.stats())[0].breaker == "closed"
    # Nothing can be entered into a ledger that is on the same full disk, so `expired` is certain for no request.
    assert {one.verdict for one in hasty} <= {CallResult.EXPIRED, CallResult.NOT_CONFIRMED}
    assert {one.verdict for one in patient} == {CallResult.WRITTEN}
