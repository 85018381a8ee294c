"""Parcels as programs pack them, and the activities that bring them, for tests that need one in a certain state."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from temporalio.api.workflowservice.v1 import DeleteActivityExecutionRequest
from temporalio.client import ActivityHandle, Client

from temporal_batching.contents import ContentStore
from temporal_batching.contract import ACTIVITY_WRITE_MANY, JsonObject, ParcelReceipt
from temporal_batching.wire.parcels import pack_parcel
from tests.support.service import Service


def packed(parcel_id: str, ids: Sequence[str], *, keys: Sequence[str] = (), table: str = "entries") -> JsonObject:
    """A parcel of one row for each id, as its activity takes it."""
    texts = [
        json.dumps({"request_id": one, "key": key, "records": [{"table": table, "values": {"id": one}}]})
        for one, key in zip(ids, keys or [""] * len(ids), strict=True)
    ]
    named = tuple(dict.fromkeys(key for key in keys if key))
    return pack_parcel(parcel_id, texts, records=len(ids), keys=named).to_wire()


async def send(
    service: Service, parcel: JsonObject, *, timeout: float = 60.0, client: Client | None = None, **fields: Any
) -> ActivityHandle[ParcelReceipt]:
    """Starts the activity of a program with this parcel."""
    return await (client or service.client).start_activity(
        ACTIVITY_WRITE_MANY,
        {**parcel, "batcher": service.name, **fields},
        id=f"parcel-{uuid4()}",
        task_queue=service.queue,
        result_type=ParcelReceipt,
        schedule_to_close_timeout=timedelta(seconds=timeout),
    )


async def delete_activity(client: Client, handle: ActivityHandle[Any]) -> None:
    """Deletes an activity from Temporal, with its input, as retention does."""
    request = DeleteActivityExecutionRequest(
        namespace=client.namespace, activity_id=handle.id, run_id=handle.run_id or ""
    )
    await client.workflow_service.delete_activity_execution(request)


def flush_in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the process of a gateway keeps, no flush finds it."""
    monkeypatch.setattr(ContentStore, "get", lambda self, digest: None)
