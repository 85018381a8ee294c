"""Temporal under measurement and its counters: a fresh development server for every run."""

from __future__ import annotations

import asyncio
import os
import re
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from temporal_batching.testing.servers import FAST, free_port, temporal_server

_COUNTED = re.compile(r"^(persistence_requests|service_requests|action)\{([^}]*)\} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')

# Its garbage collector would otherwise take a good part of the CPU that is measured. The same for every way.
os.environ.setdefault("GOGC", "400")


CHORES = (
    "ListNamespaces",
    "ListNexusEndpoints",
    "GetClusterMetadata",
    "ListClusterMetadata",
    "UpsertClusterMembership",
)
"""Persistence requests that the server makes by the clock, whatever is written: a few at a time and seldom, so that the
idle rate of some seconds says nothing of them."""


def scrape(text: str) -> dict[str, Counter[str]]:
    """The counters this benchmark is about: metric to operation to count, all namespaces together."""
    found: dict[str, Counter[str]] = {name: Counter() for name in ("persistence", "frontend", "service", "action")}
    for metric, labels, value in _COUNTED.findall(text):
        label = dict(_LABEL.findall(labels))
        count = round(float(value))
        if metric == "persistence_requests" and label["operation"] not in CHORES:
            found["persistence"][label["operation"]] += count
        elif metric == "service_requests":
            found["service"][label["service_name"] + "." + label["operation"]] += count
            if label["service_name"] == "frontend":
                found["frontend"][label["operation"]] += count
        elif metric == "action":
            found["action"][label["action_type"]] += count
    return found


@dataclass(frozen=True)
class Temporal:
    """A development server, its metrics and its process."""

    address: str
    metrics_port: int
    process: psutil.Process

    async def counters(self) -> dict[str, Counter[str]]:
        return scrape(await asyncio.to_thread(self._read))

    def _read(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=20) as answer:
            return str(answer.read().decode())

    def cpu(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def memory(self) -> int:
        """Resident bytes."""
        return int(self.process.memory_info().rss)


@asynccontextmanager
async def fresh_temporal(directory: Path) -> AsyncIterator[Temporal]:
    port = free_port()
    async with temporal_server(
        directory=directory, port=0, ui_port=0, options=[*FAST, "--metrics-port", str(port)]
    ) as server:
        # Several may be running: ours is the one that was given this port for its metrics.
        (process,) = [c for c in psutil.Process().children() if str(port) in c.cmdline()]
        yield Temporal(server.address, port, process)
