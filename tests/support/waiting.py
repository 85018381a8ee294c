"""Waiting for a condition instead of sleeping."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest


async def assert_eventually(check: Callable[[], Awaitable[None]], *, within: float = 15.0, every: float = 0.05) -> None:
    """Repeats ``check`` until it neither raises AssertionError nor fails, and raises its last one when time is up."""
    deadline = asyncio.get_running_loop().time() + within
    while True:
        try:
            await check()
        except (AssertionError, pytest.fail.Exception):  # the latter is that of `pytest.raises`
            if asyncio.get_running_loop().time() > deadline:
                raise
        else:
            return
        await asyncio.sleep(every)
