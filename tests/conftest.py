"""Fixtures of all tests: servers from wheels, one set for each process that runs tests."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import settings
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from temporal_batching.testing.servers import FAST, temporal_server

pytest_plugins = ["tests.support.databases", "tests.support.statements"]

# No test is about the time that an example takes, and a busy machine may need any.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")

# Where Python is told to write no bytecode, every process of a test compiles all that it imports: a second of CPU each.
# The processes that run the tests are among them.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ["PYTHONPYCACHEPREFIX"] = str(Path(__file__).resolve().parents[1] / "build" / "bytecode")


# What the tests are made of stays: it is no garbage while it is collected, nor need it be looked at again later.
gc.disable()


def pytest_collection_finish() -> None:
    """From here on there is garbage."""
    gc.freeze()
    gc.enable()


TEST_SERVER = Path(sys.executable).parent / "temporal-test-server"

PROMPT = (
    *("--dynamic-config-value", 'history.timerProcessorMaxTimeShift="20ms"'),
    *("--dynamic-config-value", 'history.workflowIdReuseMinimalInterval="50ms"'),
)
"""The server fires timers up to a second late, and starts no more than one run of a workflow in a second: nothing to a
user, much to a test."""

NEXUS = ("--dynamic-config-value", "activity.enableCallbacks=true")
"""A Nexus operation is backed by a standalone activity, which is to call back when it ends."""

CONTINUE_SOON = ("--dynamic-config-value", "limit.historyCount.suggestContinueAsNew=50")

CONTINUE_AT_ONCE = ("--dynamic-config-value", "limit.historyCount.suggestContinueAsNew=1")


@asynccontextmanager
async def server(directory: Path, *options: str, prompt: bool = True) -> AsyncIterator[Client]:
    """A client of a development server of one's own."""
    # The development server's garbage collector: less often; and one thread of each of the many servers, for two cores.
    os.environ.setdefault("GOGC", "400")
    os.environ.setdefault("GOMAXPROCS", "1")
    options = (*FAST, *NEXUS, *(PROMPT if prompt else ()), *options)
    async with temporal_server(directory=directory, port=0, ui_port=0, options=options) as running:
        yield await Client.connect(running.address)


@pytest_asyncio.fixture(scope="session")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    """A client of the development server."""
    async with server(tmp_path_factory.mktemp("temporal")) as connected:
        yield connected


@pytest_asyncio.fixture(scope="module")
async def skipping() -> AsyncIterator[WorkflowEnvironment]:
    """A server that skips time, though not while an activity is open."""
    async with await WorkflowEnvironment.start_time_skipping(test_server_existing_path=str(TEST_SERVER)) as env:
        yield env


@pytest_asyncio.fixture(scope="session")
async def continuing_client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    """A client of a development server that suggests to continue as new after 50 events."""
    async with server(tmp_path_factory.mktemp("temporal-continuing"), *CONTINUE_SOON) as connected:
        yield connected


@pytest_asyncio.fixture(scope="session")
async def tiny_client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    """A client of a development server that suggests to continue as new in every run's first workflow task."""
    async with server(tmp_path_factory.mktemp("temporal-tiny"), *CONTINUE_AT_ONCE) as connected:
        yield connected
