"""Every metric of this library: name, kind, unit, labels. ``docs/reference/metrics.md`` lists the same, tested.

There are two families, told apart by the name, because they are added up differently.

``batching_shard_*`` is what a shard says of itself, in answer to the query ``stats``. Every worker asks, so all
publish the same figure: take the ``max``. All others are what one worker has done itself: take the ``sum``.

Counters end in ``_total`` here: by default the SDK's exporter does not add it (``counters_total_suffix``).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a metric is, in Prometheus' words."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: As it is published.
        kind: A gauge may be NaN: it is not known at the moment.
        unit: Of its values.
        description: One line, published with it.
        labels: Beside ``namespace`` and ``batcher``, which every metric has.
        buckets: Upper bounds of a histogram's buckets.
    """

    name: str
    kind: Kind
    unit: str
    description: str
    labels: tuple[str, ...] = ("shard",)
    buckets: tuple[float, ...] = ()


SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""From a flush into a local file to the longest that a flush may take by default, 30 s, and beyond."""

WAITS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 60.0, 120.0, 300.0, 900.0)
"""Closest around the default linger, 20 s; and minutes, for what waited through an outage."""

SIZES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0)
"""100 requests and 1,000 records are the default limits."""


def _gauge(name: str, unit: str, description: str) -> Metric:
    return Metric(f"batching_shard_{name}", Kind.GAUGE, unit, description)


def _shard_counter(name: str, unit: str, description: str, *labels: str) -> Metric:
    return Metric(f"batching_shard_{name}_total", Kind.COUNTER, unit, description, ("shard", *labels))


def _counter(name: str, unit: str, description: str, *labels: str) -> Metric:
    return Metric(f"batching_{name}_total", Kind.COUNTER, unit, description, labels)


def _histogram(name: str, unit: str, description: str, buckets: tuple[float, ...]) -> Metric:
    return Metric(f"batching_{name}", Kind.HISTOGRAM, unit, description, buckets=buckets)


# What a shard says of itself.

UP = _gauge("up", "1", "1 if the shard answered when it was last asked, 0 if it did not")
PENDING_REQUESTS = _gauge("pending_requests", "requests", "Requests that wait for a batch or for a retry")
PENDING_BYTES = _gauge("pending_bytes", "bytes", "Their size as they travel")
BUFFER_USED = _gauge("buffer_used_ratio", "1", "Part of the buffer's limit that is used, of requests or of bytes")
OLDEST_SECONDS = _gauge("oldest_request_seconds", "seconds", "Age of the request that waits longest")
IN_FLIGHT = _gauge("in_flight_requests", "requests", "Requests in a flush")
REQUEUED = _gauge("requeued_requests", "requests", "Requests that wait for a retry of their own")
WAITING_CONFIRMATIONS = _gauge("waiting_confirmations", "confirmations", "Confirmations that could not be sent yet")
UNREAD_SIGNALS = _gauge("unread_signals", "signals", "Signals that the shard has received and not read yet")
BREAKER_OPEN = _gauge("breaker_open", "1", "1 while the sink is unavailable")
PAUSED = _gauge("paused", "1", "1 while no flush starts")
DRAINING = _gauge("draining", "1", "1 while no request is accepted")
IDLE_CYCLES = _gauge("idle_cycles", "runs", "Runs in a row that settled nothing though something was pending")
RUN_EVENTS = _gauge("run_events", "events", "Events in the history of the current run")

REQUESTS = _shard_counter("requests", "requests", "Requests settled, by outcome", "outcome")
BATCHES = _shard_counter("batches", "batches", "Batches settled, by what started them", "trigger")
REFUSED = _shard_counter("refused_requests", "requests", "Requests rejected as busy: there was no room")
FLUSH_FAILURES = _shard_counter("flush_failures", "flushes", "Flushes that the sink could not take")
RETRIED = _shard_counter("retried_requests", "requests", "Requests that the sink could not write, each to be retried")
UNKNOWN = _shard_counter("unknown_requests", "requests", "Requests whose outcome cannot be known")
SINK_ERRORS = _shard_counter("sink_errors", "requests", "Requests on which the sink failed without declaring it")
UNDELIVERED = _shard_counter("undelivered_confirmations", "confirmations", "Confirmations given up after retries")
MALFORMED = _shard_counter("malformed_signals", "signals", "Signals that no request could be read from")
CYCLES = _shard_counter("continued_as_new", "runs", "Runs that continued as new")

# What a worker does itself.

QUERIES = _counter("stats_queries", "queries", "Queries of a shard for the figures above, by result", "shard", "result")
FLUSHES = _counter("flushes", "flushes", "Attempts at a batch, by result", "shard", "result")
DEAD_LETTERS = _counter("dead_letters", "requests", "Rejected requests without a reply address", "shard", "kept")
SPLITS = _counter("splits", "splits", "Groups of requests halved to isolate one that fails", "by")
TRANSACTIONS = _counter("sink_transactions", "transactions", "Transactions that the SQL sink has committed")
STATEMENTS = _counter("sink_statements", "statements", "Statements of the SQL sink on the ledger and on rows")
ROWS = _counter("sink_rows", "rows", "Rows that the SQL sink has sent and committed")
SINK_RETRIES = _counter("sink_retries", "transactions", "Transactions that the SQL sink has started again")

WAIT_SECONDS = _histogram("wait_seconds", "seconds", "From a batch's oldest request to the start of its flush", WAITS)
WRITE_SECONDS = _histogram("write_seconds", "seconds", "The sink's time for a batch", SECONDS)
DELIVERY_SECONDS = _histogram("delivery_seconds", "seconds", "Sending the confirmations of a batch", SECONDS)
BATCH_REQUESTS = _histogram("batch_requests", "requests", "Requests in a batch", SIZES)
BATCH_RECORDS = _histogram("batch_records", "records", "Records in a batch", SIZES)

METRICS: tuple[Metric, ...] = tuple(value for value in dict(globals()).values() if isinstance(value, Metric))
"""All of them, in the order above."""
