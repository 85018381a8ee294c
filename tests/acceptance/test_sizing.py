"""`temporal-batching size` and `savings` as people run them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from temporalio.client import Client
from tests.support.service import entry, running
from tests.support.waiting import assert_eventually

from temporal_batching import BatchPolicy, MemorySink
from temporal_batching.sizing import Load, estimate, savings

if TYPE_CHECKING:
    from tests.acceptance.conftest import Start


async def test_a_load_is_sized_without_a_temporal(start: Start) -> None:
    process = await start(
        "temporal-batching", "size", "--rate", "5,000", "--bytes", "300", TEMPORAL_ADDRESS="nowhere:1"
    )
    assert await process.ends() == 0, process.output
    said = {line.partition(":")[0]: line.partition(":")[2].strip() for line in process.lines}
    sized = estimate(Load(rate=5_000, record_bytes=300))
    assert said["shards"] == f"{sized.shards}, decided by: {sized.decided_by}"
    assert said["transactions"] == "50/s instead of 5,000/s"

    options = ("--rate", "5000", "--bytes", "300B", "--json")
    process = await start("temporal-batching", "size", *options)
    assert await process.ends() == 1
    assert process.lines == ["error: --bytes '300B': a whole number of bytes, or a size such as 512KiB or 1MB"]


async def test_a_deployment_says_what_it_saved(start: Start, temporal: str) -> None:
    client = await Client.connect(temporal)
    async with running(client, MemorySink(), BatchPolicy(max_batch_size=10)) as service:
        await service.call("activity", [entry(number) for number in range(40)])

        async def listed() -> None:
            assert (await savings(client, batcher=service.name)).written == 40

        await assert_eventually(listed)
        where = {"TEMPORAL_ADDRESS": temporal, "BATCHING_NAME": service.name}
        process = await start("temporal-batching", "savings", "--since", "24h", **where)
        assert await process.ends() == 0, process.output
        said = {line.partition(":")[0]: line.partition(":")[2].strip() for line in process.lines}
        assert said["requests"] == "40 written"
        assert said["transactions"] == "4 instead of 40: 36 were not needed"
        assert said["without a batcher"].startswith("40 by one activity each: batching costs ")

        process = await start("temporal-batching", "savings", "--json", **where)
        assert await process.ends() == 0
        assert json.loads(process.output)["transactions_saved"] == 36

        process = await start("temporal-batching", "savings", "--name", "nobody", TEMPORAL_ADDRESS=temporal)
        assert await process.ends() == 1
        assert process.lines == ["error: no history of the batcher 'nobody' in the namespace 'default'"]
