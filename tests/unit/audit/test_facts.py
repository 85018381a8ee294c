"""What the names of batches say."""

from __future__ import annotations

import pytest

from temporal_batching.audit.facts import BatchRef


def test_a_batch_id_names_batcher_shard_execution_and_number() -> None:
    assert BatchRef.parse("my-batcher-2.3f9a2c71/17") == BatchRef("my-batcher", 2, "3f9a2c71", 17)


@pytest.mark.parametrize(
    "text", ["", "main", "main-0/17", "main-0.x/", "main-0.x/y", "main.x/17", "main-0.x/" + "9" * 19]
)
def test_other_text_is_no_batch_id(text: str) -> None:
    assert BatchRef.parse(text) is None
