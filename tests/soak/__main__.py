"""``python -m tests.soak --rounds 100 --seed 7``: random kills under load, each round with its audit."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path

from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter

from tests.faults import reaper
from tests.faults.processes import postgres_server
from tests.soak.act import RoundReport, total
from tests.soak.run import Extent, soak


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--rounds", type=int, help="as many rounds; 20 unless a duration is given")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="one of its own by default")
    parser.add_argument("--duration", type=float, metavar="SECONDS", help="no round begins later than this")
    given = parser.parse_args()
    if given.rounds is None and given.duration is None:
        given.rounds = 20
    return given


async def main(seed: int, extent: Extent) -> int:
    began, reports = time.monotonic(), list[RoundReport]()
    directory = Path(tempfile.mkdtemp(prefix="batching-soak-"))
    print(f"soak: seed {seed}, logs in {directory}", flush=True)
    status = 0
    try:
        with reaper.watch() as watching, postgres_server(watching) as postgres:
            async with contextlib.aclosing(soak(seed, extent, directory, postgres)) as playing:
                async for report in playing:
                    reports.append(report)
                    print(report, flush=True)
    except Exception:
        traceback.print_exc()
        status = 1
    result = ", ".join(f"{count:,} {verdict}" for verdict, count in sorted(total(reports).items()))
    kills = sum(len(report.round.kills) for report in reports)
    print(
        f"soak: {len(reports)} rounds in {time.monotonic() - began:.0f} s, {kills} kills, "
        f"{total(reports).total():,} callers: {result or 'none'}"
    )
    if status:
        print(f"soak: FAILED in round {len(reports) + 1}; again: make soak SEED={seed} ROUNDS={len(reports) + 1}")
    return status


if __name__ == "__main__":
    given = arguments()
    # The SDK warns of every call that it repeats while a server is down.
    quiet = LoggingConfig(filter=TelemetryFilter(core_level="ERROR", other_level="ERROR"))
    Runtime.set_default(Runtime(telemetry=TelemetryConfig(logging=quiet)))
    sys.exit(asyncio.run(main(given.seed, Extent(given.rounds, given.duration))))
