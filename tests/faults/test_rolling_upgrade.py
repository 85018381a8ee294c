"""Workers of the latest release and of this commit serve the same shards under load, in both directions."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from temporalio.client import Client

from tests.faults.auditing import full_disk
from tests.faults.earlier import SOURCE, NoRelease, latest_release, materialise
from tests.faults.processes import ROOT
from tests.faults.scene import NewScene
from tests.support.databases import TestDatabase
from tests.support.waiting import assert_eventually

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def earlier() -> Iterator[Path]:
    """The library as it was released last."""
    # Not under pytest's temporary directory: another run beside this one may clear that away.
    with tempfile.TemporaryDirectory(prefix="batching-earlier-") as directory:
        try:
            yield materialise(latest_release(), Path(directory))
        except NoRelease as err:
            pytest.skip(str(err))


@pytest.mark.parametrize("way", ["upgrade", "downgrade"])
async def test_workers_of_two_versions_share_the_shards(
    way: str, earlier: Path, continuing_client: Client, postgresql: TestDatabase, new_scene: NewScene
) -> None:
    """Each takes runs over that the other has begun, replays them and ends them."""
    scene = await new_scene(continuing_client, postgresql, shards=2)
    before, after = (earlier, None) if way == "upgrade" else (None, earlier)
    first = await scene.start_batcher(source=before)
    async with scene.load(rate=10):
        await scene.until_some_notified(10)
        second = await scene.start_batcher(source=after)
        await scene.until_some_notified(10)
        # Batches that were tried by one are tried again by the other.
        with full_disk(postgresql):

            async def tried_again() -> None:
                assert all(one.flush_failures + one.retries > 1 for one in await scene.stats())

            await assert_eventually(tried_again, within=30)
            await first.kill()
            await scene.until_shards_answer()
        await scene.until_some_notified(10)
        # On second thoughts, back again; and then for good.
        first = await scene.start_batcher(source=before)
        await second.kill()
        await scene.until_some_notified(10)
        second = await scene.start_batcher(source=after)
        assert await first.terminate() == 0
        await scene.until_some_notified(10)
    await scene.until_notified()
    stats = await scene.stats()
    print(
        f"\n{way} between now and the latest release: {len(scene.asked)} writes, "
        f"{sum(one.continue_as_new + 1 for one in stats)} runs; {scene.verdicts()}"
    )
    await scene.audit()
    assert set(scene.verdicts()) <= {"written", "duplicate"}
    assert re.findall("(?i)non-?determinis.*", scene.logs()) == []


def test_the_earlier_library_is_another_one(earlier: Path) -> None:
    """Otherwise the test above would show nothing."""
    assert modules(earlier / "temporal_batching") != modules(ROOT / SOURCE)


def modules(package: Path) -> dict[str, bytes]:
    return {str(file.relative_to(package)): file.read_bytes() for file in package.rglob("*.py")}
