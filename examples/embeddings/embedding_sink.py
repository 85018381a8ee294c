"""A sink over a bulk API: one call for the texts of many workflows, and each workflow gets its own vector."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from temporal_batching import Batch, Outcome, RejectCode, Sink, SinkUnavailable
from temporal_batching.sinks import write_in_key_order


class EmbeddingSink(Sink):
    def __init__(self, url: str) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=20)  # below the batcher's flush_timeout

    async def close(self) -> None:
        await self._http.aclose()

    async def write(self, batch: Batch) -> list[Outcome]:
        return await write_in_key_order(batch, self._embed)

    async def _embed(self, batch: Batch) -> list[Outcome]:
        items = [
            {
                "idempotency_key": request.request_id,
                "batch": batch.id,
                "inputs": [{**record.values, "model": record.table} for record in request.records],
            }
            for request in batch
        ]
        return [outcome_of(item, batch.id) for item in await self._post("/embeddings", items)]

    async def read_returned(self, request_ids: Sequence[str]) -> Mapping[str, list[dict[str, Any] | None]]:
        items = await self._post("/results", list(request_ids))
        return {item["idempotency_key"]: vectors_of(item) for item in items}

    async def _post(self, path: str, items: list[Any]) -> list[Any]:
        body = json.dumps({"items": items})  # in ASCII, which can encode any text
        try:
            reply = await self._http.post(path, content=body, headers={"content-type": "application/json"})
            reply.raise_for_status()
            return list(reply.json()["items"])
        except httpx.ConnectError as err:
            raise SinkUnavailable(f"no connection: {err}", in_doubt=False) from None
        except (httpx.HTTPError, ValueError) as err:  # sent, and the result is unknown
            raise SinkUnavailable(f"no answer: {err}") from None


def outcome_of(item: dict[str, Any], batch_id: str) -> Outcome:
    match item["status"]:
        case 200 if item["batch"] == batch_id:
            return Outcome.written(vectors_of(item))
        case 200:  # the key came with another batch first
            return Outcome.duplicate(vectors_of(item))
        case 409:
            return Outcome.rejected(RejectCode.ID_REUSED, "this idempotency key was used for other texts")
        case 400 | 413 | 422:
            return Outcome.rejected(RejectCode.CONSTRAINT, item["error"])
        case status:  # 429, 500, 503: no verdict on the text
            return Outcome.retry(f"{status}: {item['error']}")


def vectors_of(item: dict[str, Any]) -> list[dict[str, Any] | None]:
    return [{"vector": vector} for vector in item["vectors"]]
