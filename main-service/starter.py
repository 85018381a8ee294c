"""Starts payment workflows and prints what became of them.

python main-service/starter.py --workflows 10
python main-service/starter.py --input examples/payments.csv --via signal
"""

from __future__ import annotations

import csv
import io
import json
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any

import typer
from activities import Payment, check_payment
from rich.markup import escape
from rich.table import Table
from worker import MainQueue
from workflow import TASK_QUEUE, PaymentInput, PaymentResult, PaymentWorkflow, Route

from temporal_batching.cli.connect import Target
from temporal_batching.cli.console import EXIT_FAILED, CommandError, out, plural, run
from temporal_batching.cli.demo.payments import plausible_payments
from temporal_batching.cli.demo.progress import Finished, Job, batches, run_workflows
from temporal_batching.cli.options import BATCHER, with_settings
from temporal_batching.settings import BatcherSettings, SettingsError, parse_duration

COLUMNS = tuple(f.name for f in fields(Payment))
REQUIRED = tuple(name for name in COLUMNS if name != "memo")
SHOWN = 20
"""Rows of results and of problems that are printed; more would bury the summary."""


class InputError(CommandError):
    """The input file has lines that are no payments. Nothing was started."""


def read_payments(path: Path) -> list[Payment]:
    """Reads a CSV file with a header, or one JSON object a line; checks every payment before any is started.

    Raises:
        InputError: File, line and what is wrong, for each bad line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as err:
        raise InputError(f"cannot read {path}: {err.strerror}") from None
    except UnicodeDecodeError as err:
        raise InputError(f"{path} is not UTF-8 text (byte {err.start})") from None
    rows = _json_rows(text) if text.lstrip().startswith("{") else _csv_rows(text, path)
    payments: list[Payment] = []
    problems: list[str] = []
    lines: dict[str, int] = {}
    for line, row in rows:
        try:
            payment = _payment(row)
            if (earlier := lines.setdefault(payment.payment_id, line)) != line:
                raise ValueError(f"payment_id {payment.payment_id!r}: line {earlier} has it already")
            payments.append(payment)
        except ValueError as err:
            problems.append(f"{path}, line {line}: {err}")
    if problems:
        more = len(problems) - SHOWN
        raise InputError("\n".join([*problems[:SHOWN], *([f"... and {plural(more, 'more bad line')}"] * (more > 0))]))
    if not payments:
        raise InputError(f"{path} holds no payments")
    return payments


def _payment(row: Any) -> Payment:
    if isinstance(row, ValueError):
        raise row
    if not isinstance(row, dict):
        raise ValueError(f"a JSON object with {', '.join(COLUMNS)}, not {json.dumps(row, ensure_ascii=False)[:60]}")
    if unknown := sorted(set(row) - set(COLUMNS)):
        raise ValueError(f"unknown field {unknown[0]!r}: the fields are {', '.join(COLUMNS)}")
    if missing := [name for name in REQUIRED if not row.get(name)]:
        raise ValueError(f"{missing[0]} is missing")
    if wrong := [name for name, value in row.items() if not isinstance(value, str)]:
        raise ValueError(f"{wrong[0]} {row[wrong[0]]!r}: text")
    payment = Payment(**row)
    check_payment(payment)
    return payment


def _csv_rows(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header = next(reader, [])
    if missing := [name for name in REQUIRED if name not in header]:
        raise InputError(f"{path}, line 1: the header lacks {', '.join(missing)}; it is {','.join(COLUMNS)}")
    while True:
        line = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as err:
            yield line, ValueError(str(err))
            return
        if not values:
            continue
        if len(values) != len(header):
            yield line, ValueError(f"{plural(len(values), 'field')}, where the header has {len(header)}")
        else:
            yield line, dict(zip(header, values, strict=True))


def _json_rows(text: str) -> Iterator[tuple[int, Any]]:
    for line, source in enumerate(text.splitlines(), start=1):
        if source.strip():
            try:
                # A number stays the text it is: as a float, 0.10 would not survive.
                yield line, json.loads(source, parse_float=str, parse_int=str)
            except ValueError as err:
                yield line, ValueError(f"not JSON: {err}")


async def start(
    settings: BatcherSettings, target: Target, payments: Sequence[Payment], route: Route, queue: str
) -> list[Finished]:
    client = await target.connect()
    this_run = secrets.token_hex(4)
    jobs = [
        Job(f"payment-{this_run}-{number}-{payment.payment_id}", PaymentInput(payment, route))
        for number, payment in enumerate(payments, start=1)
    ]
    return await run_workflows(
        client,
        PaymentWorkflow.__name__,
        jobs,
        task_queue=queue,
        result_type=PaymentResult,
        needs=[settings.task_queue],
    )


def report(finished: Sequence[Finished]) -> None:
    """All results where they fit on a screen, otherwise the failures; the sum in any case."""
    good = [one.result for one in finished if one.ok]
    bad = [one for one in finished if not one.ok]
    if len(finished) <= SHOWN:
        _print_table(
            ("payment", "outcome", "batch", "of", "fee", "receipt"),
            ((r.payment_id, r.outcome, r.batch_id, str(r.batch_size), r.fee, r.receipt) for r in good),
        )
    _print_table(
        ("not booked", "why", "reason"),
        ((one.job.argument.payment.payment_id, one.error_type, one.error) for one in bad[:SHOWN]),
    )
    if len(bad) > SHOWN:
        out.print(f"... and {plural(len(bad) - SHOWN, 'more failure')}")
    outcomes = Counter(result.outcome for result in good)
    sizes = batches(good)
    words = [f"{count:,} {outcome}" for outcome, count in sorted(outcomes.items(), reverse=True)]
    words += [f"[red]{count:,} {kind}[/red]" for kind, count in Counter(one.error_type for one in bad).items()]
    spread = f" in {plural(len(sizes), 'batch')}, largest {max(sizes.values())}" if sizes else ""
    out.print(f"{plural(len(finished), 'payment')}: {', '.join(words)}{spread}.")


def _print_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    filled = [[" ".join(cell.split()) for cell in row] for row in rows]  # a reason may bring lines of its own
    if not filled:
        return
    if not out.is_terminal:
        widths = [max(map(len, column)) for column in zip(heads, *filled, strict=True)]
        for row in [heads, *filled]:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            out.print("  ".join(cells).rstrip(), markup=False)
        return
    table = Table(*heads)
    for row in filled:
        table.add_row(*map(escape, row))
    out.print(table)


def write_results(path: Path, finished: Iterable[Finished]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for one in finished:
            row = {
                "workflow_id": one.job.workflow_id,
                "payment_id": one.job.argument.payment.payment_id,
                "ok": one.ok,
                "error_type": one.error_type,
                "error": one.error,
                **(asdict(one.result) if one.ok else {}),
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _route(settings: BatcherSettings, via: str, gateway: str, timeout: str) -> Route:
    for name, value, allowed in (("--via", via, ("activity", "signal")), ("--gateway", gateway, ("local", "batcher"))):
        if value not in allowed:
            raise SettingsError(f"{name} {value!r}: {' or '.join(allowed)}")
    try:
        seconds = parse_duration(timeout).total_seconds()
        if seconds <= 0:
            raise ValueError("more than zero")
    except ValueError as err:
        raise SettingsError(f"--timeout {timeout!r}: {err}") from None
    return Route(
        batcher=settings.name,
        task_queue=settings.task_queue,
        shards=settings.shards,
        via="signal" if via == "signal" else "activity",
        gateway="batcher" if gateway == "batcher" else "local",
        timeout_seconds=seconds,
    )


@with_settings(*BATCHER)
def main(
    settings: BatcherSettings,
    target: Target,
    workflows: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="How many workflows. [dim]10, or all of --input[/dim]", show_default=False
        ),
    ] = None,
    input: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Payments: CSV with a header, or a JSON object a line.", show_default=False),
    ] = None,
    via: Annotated[str, typer.Option(metavar="activity|signal", help="The batcher's door.")] = "activity",
    gateway: Annotated[
        str, typer.Option(metavar="local|batcher", help="Whose worker runs the activity door.")
    ] = "local",
    timeout: Annotated[str, typer.Option(metavar="DURATION", help="How long each waits for its confirmation.")] = "2m",
    results: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write the results there, a JSON object a line.", show_default=False),
    ] = None,
    main_task_queue: MainQueue = TASK_QUEUE,
) -> None:
    """Start payment workflows, wait for them, print the results. Exit status 1 if any failed."""

    async def command() -> int:
        route = _route(settings, via, gateway, timeout)
        payments = _payments(workflows, input)
        finished = await start(settings, target, payments, route, main_task_queue)
        if results is not None:
            write_results(results, finished)
        report(finished)
        return 0 if all(one.ok for one in finished) else EXIT_FAILED

    run(command())


def _payments(count: int | None, source: Path | None) -> list[Payment]:
    if source is not None:
        return read_payments(source)[:count]
    # Ids of their own: a payment's id is its write's idempotency key, and these are new payments.
    return [Payment(**row) for row in plausible_payments(count or 10, prefix=f"W{secrets.token_hex(4)}")]


if __name__ == "__main__":
    typer.run(main)
