"""The counters of a shard."""

from __future__ import annotations

import json
from collections import Counter

from temporal_batching.batcher.counts import Counts


def test_counters_of_another_version_are_ignored_and_missing_ones_are_zero() -> None:
    carried = Counts(outcomes=Counter(written=3), retries=2).carry()
    del carried["refused"]
    restored = Counts.restore(json.loads(json.dumps({**carried, "splits": 7})))
    assert (restored.outcomes, restored.retries, restored.refused) == ({"written": 3}, 2, 0)
    restored.outcomes["expired"] += 1
    assert restored.settled == 4
