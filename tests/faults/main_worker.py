"""A worker of callers in a process of its own.

``python -m tests.faults.main_worker QUEUE BATCHER BATCHER_QUEUE SHARDS [STICKY_SECONDS]``
"""

from __future__ import annotations

import sys
from datetime import timedelta

from temporalio.worker import Worker

from temporal_batching import GatewayPlugin
from temporal_batching.cli.connect import connect
from temporal_batching.cli.console import out, run
from temporal_batching.cli.logs import log_to_stderr
from temporal_batching.cli.worker import serve
from tests.support.callers import CALLERS


async def main(queue: str, batcher: str, batcher_queue: str, shards: str, sticky: str = "10") -> int:
    log_to_stderr()
    plugin = GatewayPlugin(name=batcher, shards=int(shards), task_queue=batcher_queue)
    worker = Worker(
        await connect(),
        task_queue=queue,
        workflows=CALLERS,
        plugins=[plugin],
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=float(sticky)),
    )
    out.print("Main worker: serves.")
    return await serve(worker)


if __name__ == "__main__":
    run(main(*sys.argv[1:]))
