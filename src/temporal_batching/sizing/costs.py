"""What a batcher's operations cost: history events, history bytes, billable actions. Every constant, with its source.

Events and actions follow from what Temporal writes for each operation, and from its published list of billable actions
(https://docs.temporal.io/cloud/actions). Bytes were measured: sums of serialized events, server 1.32, SDK 1.35.
``tests/integration/test_sizing.py`` runs a load by each way in and compares: it fails if a constant is out of date, and
prints what it measured.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cost:
    """What one operation adds to a shard.

    Attributes:
        events: History events.
        bytes: Of history, without the requests that it carries.
        actions: Billable actions.
    """

    events: int
    bytes: float
    actions: int


TASK = Cost(events=3, bytes=290, actions=0)
"""A workflow task: scheduled, started, completed. Its bytes hold the identity of a worker twice."""

UPDATE = Cost(events=2, bytes=392, actions=1)
"""An update ``submit``: accepted and completed; 184 bytes of them are its result. A rejected one is one action, and
leaves no event."""

FLUSH = Cost(events=3, bytes=745, actions=1)
"""An activity ``flush_batch``: scheduled, started, completed, with its input and result but for the requests."""

TIMER = Cost(events=2, bytes=130, actions=1)
"""Started, and fired or cancelled; 60 bytes of them are its summary in the Web UI."""

SIGNAL = Cost(events=1, bytes=197, actions=1)
"""A signal ``add_write_request``. Temporal bills a signal once, where it arrives."""

RUN = Cost(events=2, bytes=2_600, actions=1)
"""A run of a shard: started and continued as new. The bytes are those of the policy and the counters that it carries,
in both events."""

CONTENT_COPIES = 2
"""How often what a caller sent enters a shard's history: with the update or the signal, and as the flush's input."""

RECORD_BYTES = 30
"""A record as JSON, without its values: ``{"table":"entries","values":},``."""

REQUEST_BYTES = 233
"""A request by activity in an update or in a flush, without its records: id, key, deadline, reply address."""

SIGNALLED_REQUEST_BYTES = 211
"""The same by signal: its reply address names no activity."""

TRACED_REQUEST_BYTES = 103
"""What is added to a request in a flush, or to a parcel, if its caller is traced: its span, and when it arrived; 72 of
them in an update or a signal. Not estimated: whoever traces most of a load adds it to the bytes of a request."""

PARCEL_BYTES = 430
"""A program's parcel in an update or in a flush: a reference to its content, which lies in the input of its activity.
Id, counts, digest, deadline, reply address; keys come on top, up to 4 KiB of them."""

PARCEL_REQUEST_BYTES = 76
"""A request in a parcel, without its records: it has no deadline and no reply address of its own."""

SIGNALLING_CALLER_ACTIONS = 2
"""Of a write by signal, beside the signal itself: the caller's timer, and the signal that confirms."""

DIRECT_ACTIONS = 1
"""Of a write without a batcher: an activity of its caller."""

SHARD_CPU = {"activity": 0.0003, "signal": 0.0005, "write_many": 0.00001}
"""Seconds of one core for one request in its shard's workflow, measured by replaying histories of 450 requests, and of
20,000 by `write_many`. The runs of one shard are on one core at a time."""

WORKER_CPU = {"batcher": 0.0033, "local": 0.0013, "signal": 0.0015, "write_many": 0.00009}
"""Seconds of one core for one request in the batcher's workers: the activity where the gateway runs there, the shard,
the flush, and the confirmation. Measured with 100 callers, and a sink that takes no time."""
