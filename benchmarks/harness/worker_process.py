"""The driver's end of a worker's process: confirmations, counters, memory."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from benchmarks.harness.worker import WorkerConfig
from temporal_batching.testing.servers import stop

STAGES = ("waiting", "flush", "delivery")
"""The parts of a confirmation's latency: until the flush began, while it wrote, until the caller knew."""
READY_SECONDS = 60.0
ANSWER_SECONDS = 20.0
CLOSE_SECONDS = 15.0
_LINE_LIMIT = 1 << 20


class WorkerProcess:
    """The workers' process, and the confirmations it reports."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._ready = asyncio.Event()
        self._counters: asyncio.Queue[dict[str, int]] = asyncio.Queue()
        self.latencies: list[float] = []
        self.stages: dict[str, list[float]] = {stage: [] for stage in STAGES}
        self.on_confirmed: Callable[[], None] = lambda: None
        self._usage = psutil.Process(process.pid)
        self._reader = asyncio.create_task(self._read())

    async def ready(self) -> None:
        """Waits until it polls; fails at once if it ends instead."""
        waiting = asyncio.create_task(self._ready.wait())
        await asyncio.wait({waiting, self._reader}, timeout=READY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not self._ready.is_set():
            raise RuntimeError("the workers' process did not come up")

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            if not line.startswith(b"{"):
                continue  # the SDK's core writes its warnings to standard output too
            message = json.loads(line)
            if "ready" in message:
                self._ready.set()
            elif "statements" in message:
                self._counters.put_nowait(message)
            else:
                self.latencies.append(message["latency"])
                for stage in STAGES:
                    if stage in message:
                        self.stages[stage].append(message[stage])
                self.on_confirmed()

    async def counters(self) -> dict[str, int]:
        """What its sink did so far: statements and transactions."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"counters\n")
        await self._process.stdin.drain()
        answer = asyncio.ensure_future(self._counters.get())
        await asyncio.wait({answer, self._reader}, timeout=ANSWER_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        answer.cancel()
        if self._reader.done():
            self._reader.result()
        raise RuntimeError(f"the workers' process did not answer in {ANSWER_SECONDS:g} s")

    def memory(self) -> int:
        """Resident bytes."""
        return int(self._usage.memory_info().rss)

    def forget(self) -> None:
        self.latencies.clear()
        for values in self.stages.values():
            values.clear()

    def cpu(self) -> float:
        times = self._usage.cpu_times()
        return float(times.user + times.system)

    async def kill(self) -> None:
        """Ends it with whatever is under way."""
        self._process.kill()
        await self._process.wait()

    async def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), CLOSE_SECONDS)
        except TimeoutError:
            pass
        finally:
            await asyncio.shield(stop(self._process))
            self._reader.cancel()


@asynccontextmanager
async def worker_process(config: WorkerConfig, log: Path) -> AsyncIterator[WorkerProcess]:
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "benchmarks.harness.worker",
            config.to_json(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=output,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
            limit=_LINE_LIMIT,
            # A Ctrl-C is the driver's: it ends the workers in order.
            start_new_session=True,
        )
    worker = WorkerProcess(process)
    try:
        await worker.ready()
        yield worker
    except BaseException:
        # Failed, out of time, or Ctrl-C: what it would still finish is not needed.
        await asyncio.shield(stop(process))
        raise
    finally:
        await worker.close()
