"""The demo as it runs: everything from nothing, many payments, and an audit of what came of them."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr
from rich.markup import escape
from rich.table import Table
from temporalio.client import Client
from temporalio.service import RPCError

from temporal_batching.cli.connect import Target, connect
from temporal_batching.cli.console import EXIT_FAILED, CommandError, err, out, plural
from temporal_batching.cli.demo.handover import Handover
from temporal_batching.cli.demo.services import services_root
from temporal_batching.cli.monitor import read_stats
from temporal_batching.contract import BatcherStats
from temporal_batching.monitoring import NoAnswer
from temporal_batching.redaction import redact_url
from temporal_batching.routing import batcher_workflow_id, default_task_queue
from temporal_batching.settings import CONSOLE, ENV_PREFIX, BatcherSettings, SettingsError, load
from temporal_batching.sinks.ledger import DEFAULT_LEDGER
from temporal_batching.testing.servers import child_process, postgres_server, stop, tail, temporal_server
from temporal_batching.web_ui import details_path

if TYPE_CHECKING:
    # SQLAlchemy is loaded by those who use it: the other commands start a third faster without.
    from temporal_batching.cli.demo.audit import AuditedRun

SHOWN = 10
TABLE = "entries"
"""The table that the payments are booked in."""
MAIN_TASK_QUEUE = "main-workflow-queue"
READY_SECONDS = 30.0


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
    """The demo in figures; `--json` prints exactly these.

    ``transactions`` are the batches that callers' confirmations name: the audit compares these with the ledger, and a
    batch is one transaction.
    """

    workflows: int
    confirmed: int
    failed: int
    rows: int
    ledger_rows: int
    transactions: int
    largest_batch: int
    seconds: float
    batcher_runs: int
    web_ui: str | None
    audit: str


async def run_demo(settings: BatcherSettings, target: Target, plan: Plan) -> int:
    """Runs the demo as planned, and returns the status that the command ends with."""
    if settings.tables is not None and TABLE not in settings.tables:
        raise SettingsError(f"--table: the demo writes to {TABLE!r}, which is not among {', '.join(settings.tables)}")
    directory = Path(tempfile.mkdtemp(prefix="temporal-batching-demo-"))
    try:
        async with AsyncExitStack() as stack:
            stage = await _set_up(stack, settings, target, plan, directory)
            report, audited = await stage.perform()
            _show(report, audited)
            if plan.json:
                print(json.dumps(asdict(report)), flush=True)
            if plan.keep:
                stage.say_where_to_look()
                await stage.say_how_the_batcher_is()
                await stage.stay()
            elif stage.web_ui and out.is_terminal:
                out.print("[dim]With --keep everything stays up, to look around in the Web UI.[/dim]")
        return EXIT_FAILED if audited.problems else 0
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def _set_up(
    stack: AsyncExitStack, settings: BatcherSettings, target: Target, plan: Plan, directory: Path
) -> _Stage:
    began = time.monotonic()
    url = await stack.enter_async_context(_database(plan.sink, directory))
    from temporal_batching.cli.database import prepare_database

    await prepare_database(url, create_tables=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    web_ui = None
    if target.is_given:
        # Somebody else's Temporal may have a batcher 'main' at work: keep out of its way.
        suffix = f"demo-{secrets.token_hex(3)}"
        names = {"name": suffix, "task_queue": default_task_queue(suffix)}
        queue = f"{MAIN_TASK_QUEUE}-{suffix}"
        environment |= target.variables
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
    ours = settings.model_copy(update=names | {"sink": SecretStr(url)})
    client = await connect(environment=environment, data_converter=settings.data_converter)
    if not web_ui:
        out.print(f"Temporal at {client.service_client.config.target_host}.")
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
        self._services = services_root()

    async def start_workers(self) -> None:
        from temporal_batching.cli.database import prepare_database

        await prepare_database(self.settings.sink_url(), create_tables=True)
        for name, script in (
            ("batcher worker", "batcher-service/worker.py"),
            ("main worker", "main-service/worker.py"),
        ):
            await self._start(name, [sys.executable, str(self._services / script)])
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

    async def perform(self) -> tuple[Report, AuditedRun]:
        count = self.plan.workflows
        out.print(f"{plural(count, 'payment')}: a workflow each, which writes one row and receives its outcome.")
        began = time.monotonic()
        results = await self._book(self.directory / "results.jsonl")
        seconds = time.monotonic() - began
        stats = await read_stats(self.client, self.settings)
        out.print("The audit compares their histories with the ledger and the rows.")
        from temporal_batching.cli.demo.audit import audit_run

        own = self.plan.sink in ("sqlite", "postgresql")
        queue = self.main_queue
        audited = await audit_run(self.client, self.settings, task_queue=queue, results=results, own_database=own)
        return self._report(results, stats, audited, seconds), audited

    def say_where_to_look(self) -> None:
        """How to look into the database, and to repeat the audit."""
        url = self.settings.sink_url()
        if self.plan.sink not in ("sqlite", "postgresql"):
            tables = f"{TABLE} and {self.settings.ledger_table}"
            out.print(f"Database: {redact_url(url)}, tables {tables}", markup=False)
            return
        out.print(f"Database: {url}", markup=False)
        if url.startswith("sqlite:///"):
            program = ["sqlite3", url.removeprefix("sqlite:///")]
        else:
            program = ["psql", url.replace("+psycopg", ""), "-c"]
        for table in (TABLE, self.settings.ledger_table):
            out.print(f"  {shlex.join([*program, f'SELECT * FROM {table} LIMIT 5'])}", markup=False)
        where = ["--address", self.client.service_client.config.target_host, "--name", self.settings.name]
        if self.settings.ledger_table != DEFAULT_LEDGER:
            where += ["--ledger-table", self.settings.ledger_table]
        out.print(f"  {shlex.join(['temporal-batching', 'audit', *where, '--sink', url])}", markup=False)

    async def say_how_the_batcher_is(self) -> None:
        """The page of each shard in the Web UI."""
        for shard in (await read_stats(self.client, self.settings))[:SHOWN] if self.web_ui else ():
            workflow_id = batcher_workflow_id(shard.batcher, shard.shard)
            page = f"{self.web_ui}{details_path(self.client.namespace, workflow_id, shard.run_id)}"
            out.print(f"Shard {shard.shard}, whether it is healthy, what it does, why it waits: {page}", markup=False)

    async def stay(self) -> None:
        out.print("Everything stays up until Ctrl-C" + (f": {self.web_ui}" if self.web_ui else "."))
        while True:
            self._check_workers()
            await asyncio.sleep(1)

    async def _start(self, name: str, command: list[str]) -> None:
        process = child_process(command, log=self._log(name), env=self.environment | self._queue())
        self._workers[name] = await self.stack.enter_async_context(process)

    async def _book(self, results: Path) -> dict[str, dict[str, Any]]:
        """Runs the main service's starter, and returns how each payment ended."""
        command = [sys.executable, str(self._services / "main-service" / "starter.py"), "--via", self.plan.via]
        command += ["--workflows", str(self.plan.workflows), "--results", str(results)]
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
        return _read_results(results)

    def _queue(self) -> dict[str, str]:
        return {"MAIN_TASK_QUEUE": self.main_queue}

    def _log(self, name: str) -> Path:
        return self.directory / f"{name.replace(' ', '-')}.log"

    def _check_workers(self) -> None:
        for name, process in self._workers.items():
            if process.returncode is not None:
                raise CommandError(f"the {name} ended with status {process.returncode}: {tail(self._log(name))}")

    def _report(
        self, results: Mapping[str, Mapping[str, Any]], stats: list[BatcherStats], audited: AuditedRun, seconds: float
    ) -> Report:
        booked = [row for row in results.values() if row["ok"]]
        return Report(
            workflows=self.plan.workflows,
            confirmed=len(booked),
            failed=len(results) - len(booked),
            rows=audited.report.rows,
            ledger_rows=audited.report.written,
            transactions=len({row["batch_id"] for row in booked}),
            largest_batch=max(shard.largest_batch for shard in stats),
            seconds=round(seconds, 2),
            batcher_runs=sum(shard.continue_as_new + 1 for shard in stats),
            web_ui=self.web_ui,
            audit="holds" if not audited.problems else "; ".join(audited.problems[:SHOWN]),
        )


def _read_results(file: Path) -> dict[str, dict[str, Any]]:
    if not file.exists():
        raise CommandError("the payments could not be started")
    return {row["payment_id"]: row for row in map(json.loads, file.read_text(encoding="utf-8").splitlines())}


def _show(report: Report, audited: AuditedRun) -> None:
    saved = report.workflows - report.transactions
    read, compared = plural(audited.report.workflows, "workflow"), plural(audited.report.records, "record")
    lines = [
        ("payments confirmed", f"{report.confirmed:,} of {report.workflows:,}"),
        ("rows", f"{report.rows:,}, and {report.ledger_rows:,} in the ledger"),
        (
            "database transactions",
            f"{report.transactions:,} instead of {report.workflows:,}: {saved / report.workflows:.1%} saved",
        ),
        ("largest batch", f"{report.largest_batch:,} requests"),
        ("promises", f"kept: {read} and {compared} compared" if not audited.problems else "[red]broken[/red]"),
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
    for problem in audited.problems[:SHOWN]:
        err.print(f"[red]audit:[/red] {escape(problem)}")
    if (more := len(audited.problems) - SHOWN) > 0:
        err.print(f"[red]audit:[/red] ... and {more} more")
