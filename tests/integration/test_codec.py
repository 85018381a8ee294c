"""With an encrypting codec a write goes by every way in, and no history shows its values."""

from __future__ import annotations

import pytest
from temporalio.client import Client, WorkflowUpdateFailedError

from temporal_batching import MemorySink, Record
from tests.support.codec import CONVERTER
from tests.support.service import entry, running
from tests.support.ways import by_every_way_in

SECRET = "the-plain-text-of-a-value"


@pytest.fixture
def encrypting_client(client: Client) -> Client:
    config = client.config()
    config["data_converter"] = CONVERTER
    return Client(**config)


@by_every_way_in
async def test_values_are_in_the_sink_and_in_no_history(client: Client, encrypting_client: Client, way_in: str) -> None:
    sink = MemorySink(reject=lambda request: f"no: {SECRET}" if request.records[0].values["n"] == 2 else None)
    async with running(encrypting_client, sink) as service:
        caller = await service.start(way_in, [entry(1, text=SECRET), entry(2, text=SECRET)])
        results = await caller.result()
        assert (await service.stats()).outcomes == {"written": 1, "rejected": 1}
        histories = [await client.get_workflow_handle(i).fetch_history() for i in (caller.id, service.shard().id)]
    assert [one.error for one in results] == [None, "WriteRejected"]
    assert SECRET in results[1].reason
    assert sink.rows["entries"] == [{"n": 1, "text": SECRET}]
    for history in histories:
        for event in history.events:
            assert SECRET.encode() not in event.SerializeToString()


async def test_a_program_with_a_codec_writes_and_operates(encrypting_client: Client) -> None:
    sink = MemorySink()
    async with running(encrypting_client, sink) as service:
        assert (await service.writer.write("entries", {"n": 1})).outcome == "written"
        results = await service.writer.write_many([Record("entries", {"n": n}) for n in range(50)])
        assert {getattr(result, "outcome", None) for result in results} == {"written"}
        await service.handle.drain()
        assert (await service.stats()).draining


async def test_a_sender_with_another_codec_disturbs_no_other(client: Client, encrypting_client: Client) -> None:
    async with running(client, MemorySink()) as service:
        foreign = encrypting_client.get_workflow_handle(service.shard().id)
        await foreign.signal("add_write_request", {"request_id": "masked"})
        with pytest.raises(WorkflowUpdateFailedError):
            await foreign.execute_update("submit", [{"request_id": "masked"}])
        (result,) = await service.call("activity", [entry(1)])
        assert result.outcome == "written"
        assert (await service.stats()).outcomes == {"written": 1}
