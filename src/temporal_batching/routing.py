"""From a key to a shard to a workflow id. Stable forever: callers in other languages compute the same.

The hash is the first eight bytes of SHA-256 over the key's UTF-8 bytes, read as a big-endian number; the shard is
that number modulo the number of shards. SHA-256 because every language ships it, not for secrecy. A request without a
key is routed by its request id. ``docs/reference/wire-contract.md`` publishes test vectors;
``tests/unit/test_routing.py`` holds them.
"""

from __future__ import annotations

import re
from hashlib import sha256

from temporal_batching.contract import DEFAULT_BATCHER, DEFAULT_TASK_QUEUE
from temporal_batching.errors import InvalidPolicy

MAX_SHARDS = 1024
"""Upper bound for ``shards``: one workflow each, and a monitor asks them all."""

MAX_ENDPOINT = 200
"""Characters of the name of a Nexus endpoint: Temporal's default limit."""

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?")
_ENDPOINT = re.compile(r"[A-Za-z][A-Za-z0-9-]*[A-Za-z0-9]")


def shard_of(key: str, shards: int) -> int:
    """The shard that serves ``key``, between 0 and ``shards - 1``."""
    if shards == 1:
        return 0
    # "surrogatepass": a lone surrogate is legal in JSON and must not break routing; the sink judges the value.
    digest = sha256(key.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % shards


def batcher_workflow_id(name: str, shard: int) -> str:
    """The workflow id of one shard, e.g. ``batcher-main-0``."""
    return f"batcher-{name}-{shard}"


def batcher_of(batch_id: str) -> str:
    """The name of the batcher that made a batch: ``main`` of ``main-0.3f9a2c71/17``."""
    return batch_id.partition(".")[0].rpartition("-")[0]


def default_task_queue(name: str) -> str:
    """The task queue of a batcher's workers: ``batcher-queue`` of ``main``, ``batcher-queue-<name>`` of any other.

    Two batchers on one queue would take each other's activities, and fail them.
    """
    return DEFAULT_TASK_QUEUE if name == DEFAULT_BATCHER else f"{DEFAULT_TASK_QUEUE}-{name}"


def check_name(name: str) -> str:
    """Returns ``name`` if a batcher may be called so, else raises `InvalidPolicy`."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidPolicy(
            f"batcher name {name!r}: 1 to 63 lower-case letters, digits, '-' and '_', beginning and ending with a "
            "letter or a digit"
        )
    return name


def check_endpoint(endpoint: str) -> str:
    """Returns ``endpoint`` if a Nexus endpoint may be called so, else raises `InvalidPolicy`."""
    if not isinstance(endpoint, str) or len(endpoint) > MAX_ENDPOINT or not _ENDPOINT.fullmatch(endpoint):
        raise InvalidPolicy(
            f"Nexus endpoint {endpoint!r}: 2 to {MAX_ENDPOINT} letters, digits and '-', beginning with a letter and "
            "ending with a letter or a digit"
        )
    return endpoint


def check_shards(shards: int) -> int:
    """Returns ``shards`` if it is a usable number of shards, else raises `InvalidPolicy`."""
    if not isinstance(shards, int) or isinstance(shards, bool) or not 1 <= shards <= MAX_SHARDS:
        raise InvalidPolicy(f"shards {shards!r}: a whole number from 1 to {MAX_SHARDS}")
    return shards
