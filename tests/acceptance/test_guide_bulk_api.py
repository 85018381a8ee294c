"""The recipe for a bulk API: its page shows the files of the example, which run as they stand."""

from __future__ import annotations

import asyncio
import importlib
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from tests.acceptance.conftest import ROOT
from tests.support.waiting import assert_eventually

from temporal_batching import BatchClient, BatcherHandle, BatchPolicy, Confirmation, Record, WriteRequest
from temporal_batching.routing import batcher_workflow_id
from temporal_batching.testing.servers import find_temporal

if TYPE_CHECKING:
    from tests.acceptance.conftest import Start

pytestmark = pytest.mark.documents

EXAMPLE = ROOT / "examples" / "embeddings"
PAGE = (ROOT / "docs" / "how-to" / "call-a-bulk-api.md").read_text(encoding="utf-8")


(COMMANDS,) = (block.splitlines() for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
FAKE, WORKER, EXECUTE = map(shlex.split, COMMANDS)


def module(name: str) -> Any:
    if str(EXAMPLE) not in sys.path:
        sys.path.append(str(EXAMPLE))
    return importlib.import_module(name)


# A case for each promise.
test_the_sink_keeps = module("test_embedding_sink").test_the_sink_keeps


def test_the_page_shows_the_files_of_the_example() -> None:
    shown = re.findall(r'^```python title="(\w+\.py)"\n(.*?)^```$', PAGE, re.MULTILINE | re.DOTALL)
    assert [name for name, _ in shown] == ["embedding_sink.py", "embed.py", "embed_worker.py", "test_embedding_sink.py"]
    for name, code in shown:
        assert code == (EXAMPLE / name).read_text(encoding="utf-8"), f"{name} differs from its page"


class Callers:
    """Starts the example's workflow."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def __call__(self, text: str) -> WorkflowHandle[Any, list[float]]:
        handle: WorkflowHandle[Any, list[float]] = await self._client.start_workflow(
            module("embed").Embed.run,
            text,
            id=f"embed-{uuid4().hex}",
            task_queue="batcher-queue-embeddings",
            execution_timeout=timedelta(seconds=60),
        )
        return handle

    async def each(self, texts: list[str]) -> list[WorkflowHandle[Any, list[float]]]:
        return list(await asyncio.gather(*map(self, texts)))


async def results(handles: list[WorkflowHandle[Any, list[float]]]) -> list[list[float]]:
    return list(await asyncio.gather(*(handle.result() for handle in handles)))


@pytest.fixture
async def _worker(client: Client, start: Start, tmp_path: Path, api: Any) -> Any:
    """The example's worker in a process of its own."""
    example = tmp_path / "embeddings"
    shutil.copytree(EXAMPLE, example, ignore=shutil.ignore_patterns("__pycache__"))
    worker = example / "embed_worker.py"
    source = worker.read_text(encoding="utf-8")
    assert source.count("localhost:7233") == 1
    worker.write_text(source.replace("localhost:7233", client.service_client.config.target_host), encoding="utf-8")
    assert WORKER[:2] == ["python", f"{EXAMPLE.relative_to(ROOT)}/embed_worker.py"]
    await start("python", str(worker), api.url)
    yield
    await client.get_workflow_handle(batcher_workflow_id("embeddings", 0)).terminate()


@pytest.fixture
def api() -> Any:
    with module("fake_embeddings").FakeEmbeddings(dimensions=1536) as running:
        yield running


async def test_the_fake_is_started_by_the_command_of_the_page(start: Start) -> None:
    name, program, port = FAKE
    assert port == "8100"
    await (await start(name, program, "0")).says(r"Embeddings at http://127\.0\.0\.1:\d+\.")


@pytest.mark.usefixtures("_worker")
async def test_each_workflow_gets_its_own_vector_whatever_the_api_does(client: Client, api: Any) -> None:
    embed, batcher = Callers(client), BatcherHandle(client, "embeddings")

    address = client.service_client.config.target_host
    command = [str(find_temporal()), *EXECUTE[1:], "--address", address]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
    assert "COMPLETED" in done.stdout, done.stdout + done.stderr

    # Its pauses are those of the defaults otherwise: a second after an outage, then two.
    pause = timedelta(milliseconds=100)
    await batcher.configure(BatchPolicy(linger=2 * pause, retry_initial=pause, retry_max=5 * pause))

    # One call for many, a bad text and one that the API does not take now.
    api.busy.add("later")
    texts = [f"text {n}" for n in range(40)]
    handles, bad, later = await embed.each(texts), await embed(""), await embed("later")
    assert await results(handles) == [api.vector(text) for text in texts]
    assert len(api.calls) < 20
    with pytest.raises(WorkflowFailureError) as failure:
        await bad.result()
    assert "a text is a string, and not empty" in str(failure.value.cause)

    async def it_alone_is_requeued() -> None:
        (stats,) = await batcher.stats()
        assert (stats.requeued, stats.breaker) != (0, "open")
        assert api.calls[-1] == 1

    await assert_eventually(it_alone_is_requeued)
    api.busy.discard("later")
    assert await later.result() == api.vector("later")

    # While the API is down the breaker opens, and nothing is lost.
    with api.outage():
        waiting = await embed.each([f"patient {n}" for n in range(5)])

        async def the_breaker_opens() -> None:
            assert [one.breaker for one in await batcher.stats()] == ["open"]

        await assert_eventually(the_breaker_opens)
    assert await results(waiting) == [api.vector(f"patient {n}") for n in range(5)]

    # An answer is lost: the batch is sent again under the same keys, and each text is embedded once.
    api.lost_answers = 1
    assert await results(await embed.each(["lost 0", "lost 1"])) == [api.vector("lost 0"), api.vector("lost 1")]
    assert api.lost_answers == 0

    # More vectors than one message holds, and the same request again.
    asked = [WriteRequest(f"many-{n}", [Record("large", {"text": f"m {n}"}, ["vector"])]) for n in range(60)]
    for outcome in ("written", "duplicate"):
        answers = await BatchClient(client, "embeddings").write_many(asked)
        assert [isinstance(one, Confirmation) and (one.outcome, one.returned) for one in answers] == [
            (outcome, [{"vector": api.vector(f"m {n}", "large")}]) for n in range(60)
        ]
    assert set(Counter(api.embedded).values()) == {1}
