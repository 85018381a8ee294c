from typing import Any

import pytest
from embedding_sink import EmbeddingSink
from fake_embeddings import FakeEmbeddings

from temporal_batching import Record
from temporal_batching.testing import SinkPromise, check_sink


def record(number: int, text: Any) -> Record:
    return Record("small", {"number": number, "text": text})


@pytest.mark.parametrize("promise", SinkPromise)
async def test_the_sink_keeps(promise: SinkPromise) -> None:
    with FakeEmbeddings() as api:
        await check_sink(
            lambda: EmbeddingSink(api.url),
            promise,
            record=record,
            rows=lambda: api.embedded,
            bad=lambda number, _: record(number, None),
            busy=lambda number, _: record(number, "busy"),
            outage=api.outage,
            returning=["vector"],
            fences=False,
        )
