"""The order of requests with one key: a request that arrived earlier is applied earlier. Pure functions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Arrival:
    """A request that a shard accepted. A sequence of arrivals is in the order of time."""

    shard: int
    request_id: str
    key: str


@dataclass(frozen=True)
class ArrivalSpan:
    """When a request arrived for the first and for the last time, and when it was applied.

    Arrivals and applications may be measured on different scales; each only has to be comparable.
    """

    request_id: str
    first: Any
    last: Any
    applied: Any


def spans_by_key(
    arrivals: Sequence[Arrival], applied: Mapping[str, int]
) -> Iterator[tuple[tuple[int, str], list[ArrivalSpan]]]:
    """Groups the requests that were applied by shard and key.

    Requests without a key, and those that arrived in several shards, have no defined order and are left out.
    """
    groups: dict[tuple[int, str], dict[str, ArrivalSpan]] = defaultdict(dict)
    shards: dict[str, set[int]] = defaultdict(set)
    for time, arrival in enumerate(arrivals):
        shards[arrival.request_id].add(arrival.shard)
        if arrival.key and arrival.request_id in applied:
            group = groups[arrival.shard, arrival.key]
            known = group.get(arrival.request_id)
            first = time if known is None else known.first
            group[arrival.request_id] = ArrivalSpan(arrival.request_id, first, time, applied[arrival.request_id])
    for where, group in groups.items():
        yield where, [span for span in group.values() if len(shards[span.request_id]) == 1]


def find_overtaken(spans: Sequence[ArrivalSpan]) -> Iterator[tuple[str, str]]:
    """Pairs of request ids: the first one was applied before the second one, although it arrived after it.

    A request that arrived more than once may have been applied for any of its arrivals, so two requests are compared
    only if all arrivals of one precede those of the other. Each request is the first of at most one pair.
    """
    by_last_arrival = iter(sorted(spans, key=lambda span: span.last))
    arrived = next(by_last_arrival, None)
    latest: ArrivalSpan | None = None
    for span in sorted(spans, key=lambda span: span.first):
        while arrived is not None and arrived.last < span.first:
            if latest is None or latest.applied < arrived.applied:
                latest = arrived
            arrived = next(by_last_arrival, None)
        if latest is not None and latest.applied > span.applied:
            yield span.request_id, latest.request_id
