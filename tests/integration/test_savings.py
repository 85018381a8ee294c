"""`savings` reads every run of a batcher's shards, and says what it left out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from temporalio.client import Client

from temporal_batching import BatcherNotRunning, MemorySink
from temporal_batching.errors import InvalidLoad, InvalidPolicy
from temporal_batching.sizing import Savings, savings
from temporal_batching.sizing.deployment import READ_AT_ONCE
from tests.support.service import Service, entry, running
from tests.support.waiting import assert_eventually

HOUR = timedelta(hours=1)


async def all_of(client: Client, service: Service, requests: int) -> Savings:
    """What was saved, once all runs are listed."""
    found: list[Savings] = []

    async def all_is_listed() -> None:
        found[:] = [await savings(client, batcher=service.name, since=HOUR)]
        assert sum(found[0].by_way.values()) == requests

    await assert_eventually(all_is_listed)
    return found[0]


async def test_it_counts_over_continue_as_new_and_says_what_it_left_out(continuing_client: Client) -> None:
    client = continuing_client
    async with running(client, MemorySink(), shards=2) as service:
        for number in range(2 * READ_AT_ONCE):
            await service.call("activity", [entry(10 * number + each) for each in range(10)])
            await service.call("signal", [entry(10 * number + each) for each in range(5)])
        requests = 2 * READ_AT_ONCE * 15
        saved = await all_of(client, service, requests)
        assert saved.outcomes == {"written": requests}
        assert saved.by_way == {"activity": requests // 3 * 2, "signal": requests // 3}
        assert saved.shards == 2
        assert saved.runs == saved.actions["runs started"] > READ_AT_ONCE
        assert saved.actions["signals"] == requests // 3
        assert saved.caller_actions == requests // 3 * 2 + requests // 3 * 2
        assert saved.direct_actions == requests
        assert saved.transactions + saved.transactions_saved == requests
        assert saved.transactions <= saved.actions["activities"]
        assert saved.is_whole

        part = await savings(client, batcher=service.name, since=HOUR, max_history_bytes=1)
        # A run that began after the last request may be listed later than the requests' runs are.
        later = await savings(client, batcher=service.name, since=HOUR)
        assert saved.runs <= part.runs + part.runs_left_out <= later.runs
        assert part.runs <= READ_AT_ONCE
        assert 0 < part.history_bytes < saved.history_bytes
        assert not part.is_whole

        nothing = await savings(client, batcher=service.name, since=datetime.now(UTC) - timedelta(milliseconds=1))
        assert (nothing.outcomes, nothing.transactions, nothing.records_per_transaction) == ({}, 0, 0.0)

        longer = await savings(client, batcher=service.name, since=timedelta(days=400))
        assert longer.retention is not None
        assert not longer.is_whole, "Temporal keeps nothing for so long"


async def test_a_batcher_without_history_and_an_invalid_argument_are_named(client: Client) -> None:
    with pytest.raises(BatcherNotRunning, match="no history of the batcher 'nobody' in the namespace 'default'"):
        await savings(client, batcher="nobody")
    with pytest.raises(InvalidPolicy, match="batcher name 'No Body'"):
        await savings(client, batcher="No Body")
    for since in (datetime(2026, 1, 1), datetime(2999, 1, 1, tzinfo=UTC), timedelta(0), timedelta(days=99_999)):
        with pytest.raises(InvalidLoad) as raised:
            await savings(client, since=since)
        assert raised.value.argument == "since"
    with pytest.raises(InvalidLoad, match="max_history_bytes 0: a whole number from 1"):
        await savings(client, max_history_bytes=0)
