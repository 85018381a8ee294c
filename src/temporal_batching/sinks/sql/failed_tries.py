"""What a sink remembers of requests that it could not write: they are tried after the others, and get more time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from temporal_batching.contract import WriteRequest

MAX_REMEMBERED = 4_096
"""Requests. Few wait at a time. A request that is forgotten is tried among the first again, with no other effect."""


class Failed(NamedTuple):
    """How often a request has failed by itself.

    Attributes:
        attempts: The attempts at batches in which it failed.
        timeouts: Those of them in which it took too long.
    """

    attempts: int = 0
    timeouts: int = 0


NEVER = Failed()


class FailedTries:
    """How often the latest requests that had to wait have failed, by request id. It is thread-safe.

    The memory is that of this process: a request that another worker receives is isolated there again.
    """

    def __init__(self, *, limit: int = MAX_REMEMBERED) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._failed: OrderedDict[str, Failed] = OrderedDict()

    def __len__(self) -> int:
        return len(self._failed)

    def of(self, request_id: str) -> Failed:
        """How often a request has failed."""
        return self._failed.get(request_id, NEVER)

    def any_timed_out(self, requests: Sequence[WriteRequest]) -> bool:
        """Whether any of these requests took too long in an earlier attempt."""
        return bool(self._failed) and any(self.of(request.request_id).timeouts for request in requests)

    def note(self, failed: Iterable[str], *, timed_out: Iterable[str], settled: Iterable[str]) -> None:
        """Adds the result of an attempt.

        Args:
            failed: Ids of the requests that failed by themselves.
            timed_out: Ids of those that took too long.
            settled: Ids of the requests that are not retried.
        """
        slow = frozenset(timed_out)
        with self._lock:
            for request_id in settled:
                self._failed.pop(request_id, None)
            for request_id in failed:
                attempts, timeouts = self._failed.pop(request_id, NEVER)
                self._failed[request_id] = Failed(attempts + 1, timeouts + (request_id in slow))
            while len(self._failed) > self._limit:
                self._failed.popitem(last=False)

    def order(self, requests: Sequence[WriteRequest]) -> list[int]:
        """The positions of requests, those with the fewest failures first.

        Requests of one key, and requests of one id, keep their order.
        """
        if not self._failed:
            return list(range(len(requests)))
        of_key: dict[str, int] = {}
        of_id: dict[str, int] = {}
        turns: list[int] = []
        for request in requests:
            turn = max(
                self.of(request.request_id).attempts, of_id.get(request.request_id, 0), of_key.get(request.key, 0)
            )
            of_id[request.request_id] = turn
            if request.key:
                of_key[request.key] = turn
            turns.append(turn)
        return sorted(range(len(requests)), key=turns.__getitem__)
