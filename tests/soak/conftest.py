"""Soak tests run on a server as it is: a new run of a workflow at most every second makes it hard to keep up."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from temporalio.client import Client

from tests.conftest import server


@pytest_asyncio.fixture(scope="session")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    """A client of a development server without what makes other tests quick."""
    async with server(tmp_path_factory.mktemp("temporal-soak"), prompt=False) as connected:
        yield connected
