"""Starts payment workflows and prints what became of them.

python main-service/starter.py --workflows 10
python main-service/starter.py --input examples/payments.csv --via activity
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer
from payments import Payment, example_payments, read_payments
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text
from temporalio.client import Client, WorkflowFailureError
from temporalio.service import RPCError
from workflow import TASK_QUEUE, PaymentInput, PaymentResult, PaymentWorkflow, Route

from temporal_batching.service import (
    BatcherSettings,
    CommandError,
    Target,
    TaskQueue,
    advice_on_missing_workers,
    command,
    connect_to_batcher,
    failure_of,
    out,
    plural,
    read_duration,
)

START_AT_ONCE = 100
WATCH_AT_ONCE = 200
"""Results awaited at a time: each holds a long poll open, and a namespace allows about a thousand."""
SHOWN = 20
"""Rows of results and of problems that are printed; more would bury the summary."""


@dataclass(frozen=True)
class Finished:
    """How a payment's workflow ended: with a result, or with an error and its type."""

    workflow_id: str
    payment_id: str
    result: PaymentResult | None = None
    error_type: str = ""
    error: str = ""


async def book(client: Client, payments: Sequence[Payment], route: Route, queue: str) -> list[Finished]:
    """Runs a workflow for each payment, all at once, and returns how each ended, in their order."""
    this_run, count = secrets.token_hex(4), len(payments)
    starting, watching = asyncio.Semaphore(START_AT_ONCE), asyncio.Semaphore(WATCH_AT_ONCE)
    bars = Progress(
        TextColumn("{task.description:<9}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=out,
        disable=not out.is_terminal,
    )  # fmt: skip
    started, finished = bars.add_task("started", total=count), bars.add_task("finished", total=count)

    async def one(number: int, payment: Payment) -> Finished:
        workflow_id = f"payment-{this_run}-{number}-{payment.payment_id}"
        try:
            async with starting:
                handle = await client.start_workflow(
                    PaymentWorkflow.run, PaymentInput(payment, route), id=workflow_id, task_queue=queue
                )
            bars.advance(started)
            async with watching:
                ended = Finished(workflow_id, payment.payment_id, result=await handle.result())
        except (WorkflowFailureError, RPCError) as err:
            ended = Finished(workflow_id, payment.payment_id, None, *failure_of(err))
        bars.advance(finished)
        return ended

    if not out.is_terminal:
        out.print(f"starting {plural(count, 'workflow')}")
    needed = {"main-service/worker.py": queue}
    if route.via != "nexus":  # there the batcher's worker polls in its own namespace
        needed["batcher-service/worker.py"] = route.task_queue or ""
    with bars:
        async with advice_on_missing_workers(client, needed):
            return await asyncio.gather(*(one(number, payment) for number, payment in enumerate(payments, start=1)))


def report(finished: Sequence[Finished]) -> None:
    """All results where they fit on a screen, otherwise the failures; the sum in any case."""
    good = [one.result for one in finished if one.result]
    bad = [one for one in finished if not one.result]
    if len(finished) <= SHOWN:
        rows = [
            (r.payment_id, r.outcome, r.batch_id, str(r.batch_size), str(r.entry_id or "-"), r.receipt) for r in good
        ]
        print_table(("payment", "outcome", "batch", "of", "entry", "receipt"), rows)
    print_table(("not booked", "why", "reason"), [(b.payment_id, b.error_type, b.error) for b in bad[:SHOWN]])
    if len(bad) > SHOWN:
        out.print(f"... and {plural(len(bad) - SHOWN, 'more failure')}")
    counts = Counter([result.outcome for result in good] + [one.error_type for one in bad])
    batches = {result.batch_id: result.batch_size for result in good if result.batch_id}
    words = ", ".join(f"{count:,} {word}" for word, count in counts.most_common())
    if batches:
        words += f" in {plural(len(batches), 'batch')}, largest {max(batches.values())}"
    out.print(f"{plural(len(finished), 'payment')}: {words}.", markup=False)


def print_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(*heads, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*(Text(" ".join(cell.split())) for cell in row))  # a reason may bring lines of its own
    if table.row_count:
        out.print(table, width=None if out.is_terminal else 400)


def write_results(path: Path, finished: Iterable[Finished]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for one in finished:
            row = {**asdict(one), "ok": one.result is not None, **(asdict(one.result) if one.result else {})}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


Workflows = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="How many. [dim]10, or all of --input[/dim]", show_default=False)
]
Input = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Payments: CSV with a header, or a JSON object a line.", show_default=False),
]
Via = Annotated[
    Literal["signal", "activity", "nexus"],
    typer.Option(
        metavar="signal|activity|nexus",
        help="How a payment reaches the batcher. Take signal where workflows are to need nothing but the batcher's "
        "workflow: signals go both ways. Take activity, the library's default, where a write should be cheaper, and "
        "wait rather than fail while the batcher's buffer is full. Take nexus where the batcher has another namespace.",
    ),
]
Gateway = Annotated[
    Literal["local", "batcher"],
    typer.Option(metavar="local|batcher", help="Whose worker runs the activity, with --via activity."),
]
Endpoint = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="The Nexus endpoint that leads to the batcher, with --via nexus.", show_default=False
    ),
]
Timeout = Annotated[str, typer.Option(metavar="DURATION", help="How long each waits for its confirmation.")]
Results = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Also write the results there, a JSON object a line.", show_default=False),
]


@command()
async def main(
    settings: BatcherSettings,
    target: Target,
    workflows: Workflows = None,
    input: Input = None,
    via: Via = "signal",
    gateway: Gateway = "local",
    nexus_endpoint: Endpoint = None,
    timeout: Timeout = "2m",
    results: Results = None,
    main_task_queue: TaskQueue = TASK_QUEUE,
) -> int:
    """Start payment workflows, wait for them, print the results. Exit status 1 if any failed."""
    seconds = read_duration("--timeout", timeout).total_seconds()
    route = Route(settings.name, settings.task_queue, settings.shards, via, gateway, seconds, nexus_endpoint)
    try:
        route.writer()
    except ValueError as err:
        raise CommandError(str(err)) from None
    try:
        payments = read_payments(input)[:workflows] if input else example_payments(workflows or 10, prefix=new_prefix())
    except ValueError as err:
        raise CommandError(str(err)) from None
    client = await connect_to_batcher(target, settings)
    finished = await book(client, payments, route, main_task_queue)
    if results is not None:
        write_results(results, finished)
    report(finished)
    return 0 if all(one.result for one in finished) else 1


def new_prefix() -> str:
    """For the ids of payments that were never there before."""
    return f"W{secrets.token_hex(4)}"


if __name__ == "__main__":
    main()
