"""``temporal-batching demo``: everything from nothing, many payments, and an audit of what came of them."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table
from temporalio.client import Client
from temporalio.service import RPCError

from temporal_batching.cli.connect import Target, connect
from temporal_batching.cli.console import EXIT_FAILED, CommandError, err, out, plural, run
from temporal_batching.cli.demo.handover import Handover
from temporal_batching.cli.demo.payments import example_payments, write_csv
from temporal_batching.cli.monitor import read_stats
from temporal_batching.cli.options import POLICY, with_settings
from temporal_batching.contract import BatcherStats
from temporal_batching.monitoring import NoAnswer
from temporal_batching.redaction import redact_url
from temporal_batching.routing import batcher_workflow_id
from temporal_batching.settings import CONSOLE, ENV_PREFIX, BatcherSettings, SettingsError, load
from temporal_batching.testing.servers import child_process, postgres_server, stop, tail, temporal_server

if TYPE_CHECKING:
    # SQLAlchemy is loaded by those who use it: the other commands start a third faster without.
    from temporal_batching.cli.demo.audit import Audit

SHOWN = 10
MAIN_TASK_QUEUE = "main-workflow-queue"
READY_SECONDS = 30.0
LINGER = "20s"
"""The default, so that batches fill whatever the machine; the demo flushes what is left once everything has come."""


@dataclass(frozen=True)
class Plan:
    """What was asked for."""

    workflows: int
    sink: str
    via: str
    keep: bool
    json: bool
    hold: bool


@dataclass(frozen=True)
class Report:
    """The demo in figures; `--json` prints exactly these."""

    workflows: int
    confirmed: int
    failed: int
    rows: int
    duplicates: int
    ledger_rows: int
    batches: int
    largest_batch: int
    sink_transactions: int
    seconds: float
    batcher_runs: int
    web_ui: str | None
    audit: str


@with_settings("shards", *POLICY, defaults={"linger": LINGER})
def demo(
    settings: BatcherSettings,
    target: Target,
    workflows: Annotated[int, typer.Option(min=1, max=100_000, metavar="N", help="How many payments.")] = 500,
    sink: Annotated[
        str, typer.Option(metavar="sqlite|postgresql|URL", help="An embedded database, or one of your own.")
    ] = "sqlite",
    via: Annotated[str, typer.Option(metavar="activity|signal", help="The batcher's door.")] = "activity",
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything up afterwards, until Ctrl-C.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the figures as one JSON object in the last line.")
    ] = False,
    hold: Annotated[
        bool | None,
        typer.Option(
            "--hold/--no-hold",
            help="Hold the writes back until all have been handed over. Default: only with --linger 0, which writes "
            "what is there at once: without a crowd at the door, a few payments at a time.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """See it work: Temporal, a database and both services from nothing, many payments at once, and an audit.

    It runs its own Temporal server with Web UI unless TEMPORAL_ADDRESS names one, and leaves nothing behind.
    """
    crowd = settings.linger == timedelta(0) if hold is None else hold
    run(_demo(settings, target, Plan(workflows, sink, via, keep, json, crowd)))


async def _demo(settings: BatcherSettings, target: Target, plan: Plan) -> int:
    if plan.via not in ("activity", "signal"):
        raise SettingsError(f"--via {plan.via!r}: activity or signal")
    directory = Path(tempfile.mkdtemp(prefix="temporal-batching-demo-"))
    try:
        async with AsyncExitStack() as stack:
            stage = await _set_up(stack, settings, target, plan, directory)
            report, found = await stage.perform()
            _show(report, found)
            if plan.json:
                print(json.dumps(asdict(report)), flush=True)
            if plan.keep:
                await stage.stay()
            elif stage.web_ui and out.is_terminal:
                out.print("[dim]With --keep everything stays up, to look around in the Web UI.[/dim]")
        return EXIT_FAILED if found.problems else 0
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def _set_up(
    stack: AsyncExitStack, settings: BatcherSettings, target: Target, plan: Plan, directory: Path
) -> _Stage:
    began = time.monotonic()
    url = await stack.enter_async_context(_database(plan.sink, directory))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    web_ui = None
    if address := target.address or os.environ.get("TEMPORAL_ADDRESS"):
        # Somebody else's Temporal may have a batcher 'main' at work: keep out of its way.
        suffix = f"demo-{secrets.token_hex(3)}"
        names = {"name": suffix}
        queue = f"{MAIN_TASK_QUEUE}-{suffix}"
        environment["TEMPORAL_ADDRESS"] = address
        if target.namespace:
            environment["TEMPORAL_NAMESPACE"] = target.namespace
        out.print(f"Temporal at {address}.")
    else:
        server = await stack.enter_async_context(temporal_server(directory=directory))
        address, web_ui, names, queue = server.address, server.web_ui, {}, MAIN_TASK_QUEUE
        # No profile, key or certificate of the user's is meant for this server.
        environment = {name: value for name, value in environment.items() if not name.startswith("TEMPORAL_")}
        nothing = directory / "temporal.toml"
        nothing.touch()
        environment |= {"TEMPORAL_ADDRESS": address, "TEMPORAL_CONFIG_FILE": str(nothing)}
        out.print(f"Temporal's development server at {address}, Web UI [link={web_ui}]{web_ui}[/link]")
    kind = "embedded " * (plan.sink in ("sqlite", "postgresql"))
    out.print(f"Database: {kind}{escape(plan.sink if kind else redact_url(url))}")
    values = settings.model_dump() | names | {"sink": url}
    ours = load(values)
    client = await connect(environment=environment, data_converter=settings.data_converter)
    if not web_ui:
        stack.push_async_callback(_terminate, client, ours)
    stage = _Stage(stack, ours, plan, client, directory, environment | ours.to_environment(), queue, web_ui)
    await stage.start_workers()
    out.print(f"Batcher worker and main worker are up, {time.monotonic() - began:.1f} s after the start.")
    return stage


@asynccontextmanager
async def _database(sink: str, directory: Path) -> AsyncIterator[str]:
    if sink == "sqlite":
        yield f"sqlite:///{directory / 'payments.db'}"
    elif sink == "postgresql":
        async with postgres_server(directory=directory) as url:
            yield url
    else:
        url = load({"sink": sink}).sink_url()
        if url == CONSOLE:
            raise SettingsError("--sink 'console': sqlite, postgresql or a database URL, for the demo audits the rows")
        from temporal_batching.cli.database import prepare_database

        await prepare_database(url, create_tables=True)
        yield url


async def _terminate(client: Client, settings: BatcherSettings) -> None:
    for shard in range(settings.shards):
        try:
            await client.get_workflow_handle(batcher_workflow_id(settings.name, shard)).terminate("the demo is over")
        except RPCError as problem:
            err.print(f"could not terminate shard {shard}: {escape(problem.message)}")


@dataclass
class _Stage:
    """The running services, and the play."""

    stack: AsyncExitStack
    settings: BatcherSettings
    plan: Plan
    client: Client
    directory: Path
    environment: dict[str, str]
    main_queue: str
    web_ui: str | None

    def __post_init__(self) -> None:
        self._workers: dict[str, asyncio.subprocess.Process] = {}
        self._main_service = find_main_service()

    @property
    def _counters(self) -> Path:
        return self.directory / "counters.json"

    async def start_workers(self) -> None:
        command = [sys.executable, "-m", "temporal_batching.cli", "worker", "--create-tables"]
        await self._start("batcher worker", [*command, "--counters", str(self._counters)])
        await self._start("main worker", [sys.executable, str(self._main_service / "worker.py")])
        deadline = time.monotonic() + READY_SECONDS
        while True:
            self._check_workers()
            try:
                await read_stats(self.client, self.settings)
                return
            except NoAnswer as problem:
                if time.monotonic() > deadline:
                    raise CommandError(f"{problem} Its log: {tail(self._log('batcher worker'))}") from None
            await asyncio.sleep(0.2)

    async def perform(self) -> tuple[Report, Audit]:
        payments = list(example_payments(self.plan.workflows, prefix=f"P{secrets.token_hex(4)}"))
        source, results = self.directory / "payments.csv", self.directory / "results.jsonl"
        with source.open("w", encoding="utf-8", newline="") as file:
            write_csv(iter(payments), file)
        out.print(
            f"{plural(len(payments), 'payment')}: a workflow each, which writes one row and hears what became of it."
        )
        began = time.monotonic()
        await self._start_payments(source, results)
        seconds = time.monotonic() - began
        told = _read_results(results)
        stats = await read_stats(self.client, self.settings)
        from temporal_batching.cli.demo.audit import audit

        found = await asyncio.to_thread(audit, self.settings.sink_url(), payments, told)
        return await self._report(told, stats, found, seconds), found

    async def stay(self) -> None:
        out.print("Everything stays up until Ctrl-C" + (f": {self.web_ui}" if self.web_ui else "."))
        while True:
            self._check_workers()
            await asyncio.sleep(1)

    async def _start(self, name: str, command: list[str]) -> None:
        process = child_process(command, log=self._log(name), env=self.environment | self._queue())
        self._workers[name] = await self.stack.enter_async_context(process)

    async def _start_payments(self, source: Path, results: Path) -> None:
        command = [sys.executable, str(self._main_service / "starter.py"), "--input", str(source)]
        command += ["--via", self.plan.via, "--results", str(results)]
        handover = Handover(self.client, self.settings, expected=self.plan.workflows, hold=self.plan.hold)
        await handover.begin()
        process = await asyncio.create_subprocess_exec(
            *command, env=self.environment | self._queue(), start_new_session=True
        )
        try:
            while process.returncode is None:
                self._check_workers()
                try:
                    await asyncio.wait_for(process.wait(), 0.5)
                except TimeoutError:
                    await handover.look()
        finally:
            await asyncio.shield(stop(process))

    def _queue(self) -> dict[str, str]:
        return {"MAIN_TASK_QUEUE": self.main_queue}

    def _log(self, name: str) -> Path:
        return self.directory / f"{name.replace(' ', '-')}.log"

    def _check_workers(self) -> None:
        for name, process in self._workers.items():
            if process.returncode is not None:
                raise CommandError(f"the {name} ended with status {process.returncode}: {tail(self._log(name))}")

    async def _report(
        self, told: Mapping[str, Mapping[str, Any]], stats: list[BatcherStats], found: Audit, seconds: float
    ) -> Report:
        confirmed = sum(row["ok"] for row in told.values())
        return Report(
            workflows=self.plan.workflows,
            confirmed=confirmed,
            failed=len(told) - confirmed,
            rows=found.rows,
            duplicates=found.duplicates,
            ledger_rows=found.ledger_rows,
            batches=sum(shard.batches for shard in stats),
            largest_batch=max(shard.largest_batch for shard in stats),
            sink_transactions=await self._transactions(found.rows),
            seconds=round(seconds, 2),
            batcher_runs=sum(shard.continue_as_new + 1 for shard in stats),
            web_ui=self.web_ui,
            audit="holds" if not found.problems else "; ".join(found.problems[:SHOWN]),
        )

    async def _transactions(self, rows: int) -> int:
        """What the sink itself counted. Its worker writes the figures down every moment, so they may lag a little."""
        for _ in range(20):
            counters = _read_counters(self._counters)
            if counters["rows"] >= rows:
                return counters["transactions"]
            await asyncio.sleep(0.2)
        raise CommandError(f"the batcher worker did not report its {plural(rows, 'row')}")


def _read_counters(file: Path) -> dict[str, int]:
    counters: dict[str, int] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"rows": -1}
    return counters


def _read_results(file: Path) -> dict[str, dict[str, Any]]:
    if not file.exists():
        raise CommandError("the payments could not be started")
    return {row["payment_id"]: row for row in map(json.loads, file.read_text(encoding="utf-8").splitlines())}


def find_main_service() -> Path:
    """The main service's directory, in a checkout or in an installed package that ships it."""
    here = Path(__file__).resolve()
    for path in (here.parents[4] / "main-service", here.parents[2] / "_demo" / "main-service"):
        if (path / "worker.py").is_file():
            return path
    raise CommandError("the demo needs the directory main-service: run it in a checkout of temporal-batching")


def _show(report: Report, found: Audit) -> None:
    saved = report.workflows - report.sink_transactions
    lines = [
        ("payments confirmed", f"{report.confirmed:,} of {report.workflows:,}"),
        ("rows", f"{report.rows:,}, {plural(report.duplicates, 'duplicate')}"),
        ("batches", f"{report.batches:,}, the largest of {report.largest_batch:,} records"),
        (
            "database transactions",
            f"{report.sink_transactions:,} instead of {report.workflows:,}: {saved / report.workflows:.1%} saved",
        ),
        ("ledger and rows", "agree, row for row" if not found.problems else "[red]do not agree[/red]"),
        ("took", f"{report.seconds:.1f} s, {report.confirmed / report.seconds:.0f} payments a second"),
        ("batcher runs", f"{report.batcher_runs:,} (one a shard, and one for each continue-as-new)"),
    ]
    if out.is_terminal:
        table = Table(title="Audit", title_justify="left", title_style="bold", show_header=False)
        for line in lines:
            table.add_row(*line)
        out.print(table)
    else:
        for name, value in lines:
            out.print(f"{name + ':':<23}{value}")
    for problem in found.problems[:SHOWN]:
        err.print(f"[red]audit:[/red] {escape(problem)}")
    if (more := len(found.problems) - SHOWN) > 0:
        err.print(f"[red]audit:[/red] ... and {more} more")
