"""`run_worker`: a worker process that is stopped by a signal, and finishes what it has begun."""

from __future__ import annotations

import asyncio
import contextlib
import signal

from temporalio.worker import Worker

from temporal_batching.collector import collect_less_often

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C, and what a container platform sends before it kills."""


async def run_worker(worker: Worker) -> None:
    """Runs a worker until SIGTERM or SIGINT; then it takes no new work, and finishes what is in progress.

    Python ends a process immediately on SIGTERM, in the middle of a flush. That is safe, but the batch has to be
    written again, and its callers wait for it. For how long a worker may finish is its `graceful_shutdown_timeout`:
    30 seconds with `BatcherPlugin`, unless you set another. Let the platform wait longer before it kills.

    The first signal counts; further ones are ignored, so that they do not interrupt the shutdown. Call it in the main
    thread, as only that one gets signals. Where the event loop has no signal handlers (Windows), Ctrl-C stops it as
    it stops `asyncio.run`.

    Python's garbage collector looks less often from then on, which saves a busy batcher's worker up to two fifths of
    its CPU: `gc.set_threshold(50_000)`. A process that has set a higher threshold, or switched the collector off,
    keeps that.

    Args:
        worker: Of any kind: a batcher's, a caller's, or both.

    Raises:
        Exception: The worker failed, or its sink could not be opened.
    """
    collect_less_often()
    loop = asyncio.get_running_loop()
    running = asyncio.ensure_future(worker.run())
    stopped = False

    def stop() -> None:
        nonlocal stopped
        if not stopped:
            stopped = True
            running.cancel()  # the worker shuts down in order; before it polls, it does not begin

    with contextlib.ExitStack() as handlers:
        for which in SIGNALS:
            with contextlib.suppress(NotImplementedError):
                loop.add_signal_handler(which, stop)
                handlers.callback(loop.remove_signal_handler, which)
        try:
            await running
        except asyncio.CancelledError:
            if not stopped:
                raise
