"""`python -m tests.simulation --seeds 20000`: runs seeds on all cores, and shows the first that fails, made small."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator

from tests.simulation.plan import make_plan
from tests.simulation.run import run, shrink

CHUNK = 100


def run_chunk(seeds: range) -> tuple[int, Counter[str], list[tuple[int, list[str]]]]:
    calls, seen, failed = 0, Counter[str](), []
    for seed in seeds:
        try:
            report = run(make_plan(seed))
        except Exception:
            failed.append((seed, traceback.format_exc().splitlines()[-3:]))
            continue
        calls += report.calls
        seen.update(dict.fromkeys(report.seen, 1))
        if report.violations:
            failed.append((seed, [str(violation) for violation in report.violations]))
    return calls, seen, failed


def show(seed: int, *, small: bool) -> None:
    plan = make_plan(seed)
    if small:
        plan = shrink(plan)
    report = run(plan, trace=True)
    print(f"seed {seed}: {len(plan.steps)} steps, policy {plan.policy}, faults {plan.faults}, {plan.shards} shards")
    print("\n".join(report.trace))
    for violation in report.violations:
        print(f"VIOLATION {violation}")


def main() -> int:
    logging.disable(logging.ERROR)  # what the flush says of a sink that breaks on purpose
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20_000, help="how many")
    parser.add_argument("--start", type=int, default=0, help="the first")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--trace", action="store_true", help="with --seed: show all that happens, nothing left out")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    if options.seed is not None:
        failed = bool(run(make_plan(options.seed)).violations)
        if failed or options.trace:
            show(options.seed, small=failed and not options.trace)
        print(f"seed {options.seed}: {'FAILED' if failed else 'clean'}")
        return int(failed)
    return run_all(options.start, options.seeds, options.processes)


def run_all(start: int, count: int, processes: int) -> int:
    started = last = time.monotonic()
    calls, runs = 0, 0
    seen: Counter[str] = Counter()
    failed: list[tuple[int, list[str]]] = []
    for size, (some_calls, kinds, some_failed) in chunks(start, count, processes):
        runs, calls = runs + size, calls + some_calls
        seen.update(kinds)
        failed += some_failed
        if time.monotonic() - last > 10:
            last = time.monotonic()
            print(f"{runs:,} of {count:,} seeds, {calls:,} writes, {len(failed)} failed", flush=True)
    seconds = time.monotonic() - started
    print(
        f"{runs:,} seeds from {start}, {calls:,} writes in {seconds:.1f} s: {60 * runs / seconds:,.0f} seeds a minute"
    )
    print("what happened, in how many seeds:", ", ".join(f"{kind} {n}" for kind, n in sorted(seen.items())))
    for seed, violations in sorted(failed)[:20]:
        print(f"seed {seed} FAILED: {'; '.join(violations)}")
    if failed:
        show(min(failed)[0], small=True)
        print(
            f"{len(failed)} of {runs:,} seeds failed; again: python -m tests.simulation --seed {min(failed)[0]} --trace"
        )
    else:
        print("no promise was broken")
    return int(bool(failed))


def chunks(
    start: int, count: int, processes: int
) -> Iterator[tuple[int, tuple[int, Counter[str], list[tuple[int, list[str]]]]]]:
    parts = [range(first, min(first + CHUNK, start + count)) for first in range(start, start + count, CHUNK)]
    if processes == 1 or len(parts) == 1:
        yield from ((len(part), run_chunk(part)) for part in parts)
        return
    with multiprocessing.Pool(processes) as pool:
        yield from zip(map(len, parts), pool.imap(run_chunk, parts), strict=True)


if __name__ == "__main__":
    sys.exit(main())
