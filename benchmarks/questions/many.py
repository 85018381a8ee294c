"""What do many writes at a time cost, from a program and from workflows?

`BatchClient.write_many` writes through one shard, with two policies: batches of 1,000, and of 2,000, four at a time.
With the latter also while the program runs the gateway itself: then no flush finds a parcel in its own process, and
each reads it from Temporal. `BatchWriter.write_many` runs in workflows, in parcels of 100.
"""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console
from rich.table import Table

from benchmarks.charts import bars, stacked
from benchmarks.curve import curve_part
from benchmarks.harness.measure import Load
from benchmarks.markup import paragraph, plots, table
from benchmarks.question import Part, Question, Wanted
from benchmarks.report import Line, Report, Result
from benchmarks.rounding import number
from benchmarks.targets import at_least, at_most

CURVE = "many at once"
PROGRAM = "program, batches of 1,000"
PROGRAM_IN_FLIGHT = "program, batches of 2,000, four in flight"
PROGRAM_GATEWAY = "program with a gateway of its own, batches of 2,000, four in flight"
WORKFLOWS = "workflows, parcels of 100"
RECORDS = 60_000
"""Of a program, in the whole run: in batches of 1,000 they filled six runs of a shard while records travelled through
its history."""
LINGER = 0.2
"""Parcels are batches already: only the last one of a program waits."""


def _parts(wanted: Wanted) -> list[Part]:
    records = wanted.writes or (20_000 if wanted.quick else RECORDS)
    idle = 1.0 if wanted.quick else 3.0
    program = Load(writes=records, batch_size=1_000, linger=LINGER, warm_up=4_000, idle_seconds=idle)
    loads = {
        PROGRAM: ("write_many", program),
        PROGRAM_IN_FLIGHT: ("write_many", replace(program, batch_size=2_000, in_flight=4)),
        PROGRAM_GATEWAY: ("write_many", replace(program, batch_size=2_000, in_flight=4, own_gateway=True)),
        WORKFLOWS: (
            "workflow_many",
            Load(
                writes=4_000 if wanted.quick else 20_000,
                callers=4,
                records_per_caller=1_000,
                linger=LINGER,
                warm_up=2_000,
                idle_seconds=idle,
            ),
        ),
    }
    if wanted.quick:
        del loads[PROGRAM_IN_FLIGHT], loads[PROGRAM_GATEWAY]
    return [
        curve_part(CURVE, line, way, [(load.writes, load)], timeout=180)
        for line, (way, load) in loads.items()
        if way in wanted.ways
    ]


_CPU = {"driver": "program", "workers": "worker", "temporal": "server", "database": "database"}
COLUMNS = (
    "records",
    "records/s",
    *(f"CPU of {name}, µs" for name in _CPU.values()),
    "persistence requests",
    "transactions",
    "shard's history, MiB in all",
    "runs",
)


def cells(result: Result) -> list[str]:
    """What `COLUMNS` name. With workflows the worker is the callers' and the batcher's in one process."""
    return [
        f"{result.writes:,}",
        number(result.writes_per_second),
        *(number(1000 * result.cpu_ms_per_write[who]) for who in _CPU),
        number(result.persistence_per_write),
        number(result.transactions_per_write),
        number(history_mebibytes(result)),
        str(result.batcher_runs),
    ]


def cpu_microseconds(result: Result) -> float:
    """CPU per record of the program, the worker and the server, without the database."""
    return 1000 * sum(result.cpu_ms_per_write[who] for who in ("driver", "workers", "temporal"))


def history_mebibytes(result: Result) -> float:
    """What the shard's history grew by, over all runs."""
    return result.batcher_bytes_per_write * result.writes / 2**20


def _answer(report: Report) -> list[str]:
    found = {point.line: point.result for point in report.curve(CURVE)}
    if not found:
        return []
    cpu = {
        line: {name: 1000 * result.cpu_ms_per_write[who] for who, name in _CPU.items()}
        for line, result in found.items()
    }
    return [
        paragraph(
            "One shard, records of 200 bytes, each request committed once and by itself. The program makes its records "
            "beforehand; workflows make theirs while they are measured, a thousand each, four at a time. Where the "
            "program has a gateway of its own, each flush reads its parcels from Temporal."
        ),
        plots(
            [
                bars(
                    "Records per second",
                    "records per second",
                    {_short(line): result.writes_per_second for line, result in found.items()},
                ),
                stacked("CPU time", "µs per record", {_short(line): parts for line, parts in cpu.items()}),
            ]
        ),
        table("Per record", COLUMNS, [(line, cells(result)) for line, result in found.items()]),
    ]


def _short(line: str) -> str:
    return line.replace(", ", "\n", 1)


def _print(report: Report, console: Console) -> None:
    found = report.curve(CURVE)
    if not found:
        return
    shown = Table("per record", *COLUMNS, title="Many writes at a time", title_justify="left")
    for point in found:
        shown.add_row(point.line, *cells(point.result))
    console.print(shown)


def fastest(report: Report) -> tuple[str, Result] | None:
    """Of a program the policy that is fastest; None if none was measured."""
    found = {point.line: point.result for point in report.curve(CURVE)}
    programs = {line: found[line] for line in (PROGRAM, PROGRAM_IN_FLIGHT) if line in found}
    return max(programs.items(), key=lambda item: item[1].writes_per_second, default=None)


def _targets(report: Report) -> list[Line]:
    """Of a program the policy that is fastest, which the line names; its history with the usual one."""
    found = {point.line: point.result for point in report.curve(CURVE)}
    line, best = fastest(report) or ("", None)
    usual, workflows = found.get(PROGRAM), found.get(WORKFLOWS)
    whole = usual if usual and usual.writes >= RECORDS else None
    return [
        at_least(
            f"write_many, one shard, 200-byte records{line and ': '}{line}",
            15_000,
            best.writes_per_second if best else None,
            " records/s",
        ),
        at_most(
            "CPU per record of the same: program, worker, server", 85, cpu_microseconds(best) if best else None, " µs"
        ),
        at_most(
            f"shard's history for {RECORDS:,} records of a program, batches of 1,000",
            0.6,
            history_mebibytes(whole) if whole else None,
            " MiB",
        ),
        at_most(f"runs of the shard for {RECORDS:,} records of a program", 1, whole.batcher_runs if whole else None),
        at_most(
            "write_many in workflows, parcels of 100: persistence requests per record",
            0.35,
            workflows.persistence_per_write if workflows else None,
        ),
    ]


QUESTION = Question(
    name="many",
    asks="What do many writes at a time cost?",
    parts=_parts,
    answer=_answer,
    targets=_targets,
    print=_print,
    quick=True,
)
