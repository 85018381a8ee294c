"""What Temporal's Web UI and ``temporal workflow metadata`` get from shards and callers: live, and without history."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import Client, WorkflowHandle
from temporalio.converter import DataConverter

from temporal_batching import BatchPolicy, MemorySink, SinkUnavailable
from temporal_batching.web_ui import METADATA_QUERY
from tests.support.service import entry, running
from tests.support.waiting import assert_eventually

SECRET = "4711081500"


async def metadata(handle: WorkflowHandle[Any, Any]) -> WorkflowMetadata:
    answer: WorkflowMetadata = await handle.query(METADATA_QUERY, result_type=WorkflowMetadata)
    return answer


async def details(handle: WorkflowHandle[Any, Any]) -> str:
    return (await metadata(handle)).current_details


async def test_a_shard_and_its_callers_say_how_they_are_without_any_history(client: Client) -> None:
    sink = MemorySink()
    policy = BatchPolicy(linger=timedelta(minutes=5), retry_initial=timedelta(seconds=0.1))
    async with running(client, sink, policy) as service:
        shard = service.shard()
        caller = await service.start(
            "activity", [entry(1, text=SECRET), entry(2)], timeout=80.0, details="**Mine**: step 2"
        )

        async def gathers() -> None:
            assert "**Healthy**. 2 requests wait; the next batch" in await details(shard)

        await assert_eventually(gathers)
        events = len(await service.events())
        waiting = await details(caller)
        assert waiting.startswith("**Mine**: step 2\n\n**Batched writes**: none settled; 2 wait for a confirmation.")
        assert f"waits for [the batcher {service.name}](" in waiting
        told = (await metadata(shard)).definition
        for handlers in (told.update_definitions, told.signal_definitions, told.query_definitions):
            assert all(one.description for one in handlers if not one.name.startswith("__"))
        assert len(await service.events()) == events, "a query leaves nothing in history"

        await service.handle.pause()
        assert (await details(shard)).startswith("**Paused**: no flush starts until `temporal-batching resume`. 2 req")
        sink.fail_next(1_000, error=SinkUnavailable("db.example is <b>down</b>", in_doubt=False))
        await service.handle.resume()
        await service.shard().execute_update("control", {"flush": True})

        async def down() -> None:
            text = await details(shard)
            assert text.startswith("**Sink unavailable** since 2")
            assert "`db.example is <b>down</b>`" in text

        await assert_eventually(down)
        sink.stop_failing()
        confirmed = await caller.result()
        assert [one.outcome for one in confirmed] == ["written", "written"]
        found = await details(caller)
        link = f"[{shard.id}](/namespaces/default/workflows/{shard.id})"
        assert f"written, batch `{confirmed[0].batch_id}` of {link}" in found

        async def healthy() -> None:
            text = await details(shard)
            assert text.startswith("**Healthy**. It is idle: no request waits.")
            assert "(1 by manual)" in text
            assert SECRET not in text + found + waiting

        await assert_eventually(healthy)
        named = (EventType.EVENT_TYPE_TIMER_STARTED, EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED)
        summaries = [
            DataConverter.default.payload_converter.from_payload(event.user_metadata.summary)
            for event in await service.events()
            if event.event_type in named
        ]
        assert {"next batch, retry or deadline", "next attempt at the sink"} <= set(summaries)
        assert max(map(len, summaries)) < 100


async def test_the_next_run_says_when_it_began_and_what_it_is(continuing_client: Client) -> None:
    async with running(continuing_client, MemorySink()) as service:

        async def continued() -> None:
            await service.shard().signal("stir")
            assert (await service.stats()).continue_as_new > 0

        await assert_eventually(continued)
        began = (await service.shard().describe()).start_time
        text = await details(service.shard())
        assert f"- Last continue-as-new: {began:%Y-%m-%d %H:%M}" in text
        # What a run is started with does not pass to the next: current details have to say what this workflow is.
        assert f"Shard 0 of the batcher `{service.name}`" in text
        assert "`temporal-batching drain`" in text
