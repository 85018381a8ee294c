"""The command ``temporal-batching``. Each command is a few lines over the library; the services use the same ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from temporalio.client import Client, WorkflowUpdateFailedError
from temporalio.service import RPCError

from temporal_batching import BatcherHandle, BatchPolicy
from temporal_batching.cli import monitor as monitoring
from temporal_batching.cli.connect import check_readable, connect_to
from temporal_batching.cli.console import EXIT_TROUBLE, CommandError, complain, out, plural, run
from temporal_batching.cli.demo.command import demo
from temporal_batching.cli.options import BATCHER, POLICY, Target, with_settings
from temporal_batching.cli.worker import run_batcher_worker
from temporal_batching.errors import BatchingError
from temporal_batching.settings import POLICY_FIELDS, BatcherSettings, SettingsError, flag, parse_duration

app = typer.Typer(
    name="temporal-batching",
    help="Batch the writes of many Temporal workflows into few database transactions, each exactly once.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.command()(demo)


@app.callback(invoke_without_command=True)
def _root(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, show_default=False)
    ] = False,
) -> None:
    if show_version:
        out.print(f"temporal-batching {version('temporal-batching')}")
        raise typer.Exit


Interval = Annotated[str, typer.Option("--interval", metavar="DURATION", help="How often to look.")]
Once = Annotated[bool, typer.Option("--once", help="Print the figures once and exit.")]


@app.command()
@with_settings(*BATCHER, "sink", *POLICY)
def worker(
    settings: BatcherSettings,
    target: Target,
    create_tables: Annotated[
        bool, typer.Option("--create-tables", help="Make the demo's table 'entries' in the database if it is missing.")
    ] = False,
    metrics: Annotated[
        str | None,
        typer.Option("--metrics", metavar="HOST:PORT", help="Serve metrics for Prometheus.", show_default=False),
    ] = None,
    counters: Annotated[Path | None, typer.Option("--counters", hidden=True)] = None,
) -> None:
    """Run a batcher worker. It starts or finds the batcher's workflows, takes writes and flushes them to the sink."""
    run(run_batcher_worker(settings, target, create_tables=create_tables, metrics=metrics, counters=counters))


@app.command()
@with_settings(*BATCHER, *POLICY)
def start(settings: BatcherSettings, target: Target) -> None:
    """Start the batcher's workflows, or find them running."""
    run(_start(settings, target))


@app.command()
@with_settings(*BATCHER)
def monitor(settings: BatcherSettings, target: Target, interval: Interval = "1s", once: Once = False) -> None:
    """Watch a batcher, through every continue-as-new."""
    run(_monitor(settings, target, interval, once, start_first=False))


@app.command("start-and-monitor", hidden=True)
@with_settings(*BATCHER, *POLICY)
def start_and_monitor(settings: BatcherSettings, target: Target, interval: Interval = "1s", once: Once = False) -> None:
    """Start the batcher's workflows or find them running, then watch them."""
    run(_monitor(settings, target, interval, once, start_first=True))


@app.command()
@with_settings(*BATCHER)
def stats(
    settings: BatcherSettings, target: Target, json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False
) -> None:
    """Print every shard's figures."""
    run(_stats(settings, target, json))


@app.command()
@with_settings(*BATCHER)
def flush(settings: BatcherSettings, target: Target) -> None:
    """Write what is pending now, without waiting for a fuller batch."""
    run(_control(settings, target, BatcherHandle.flush, "has written what was pending"))


@app.command()
@with_settings(*BATCHER)
def pause(settings: BatcherSettings, target: Target) -> None:
    """Start no flush until `resume`: requests wait in the buffer, up to their deadlines."""
    run(_control(settings, target, BatcherHandle.pause, "is paused"))


@app.command()
@with_settings(*BATCHER)
def resume(settings: BatcherSettings, target: Target) -> None:
    """End a pause or a drain."""
    run(_control(settings, target, BatcherHandle.resume, "runs"))


@app.command("adopt-ledger")
@with_settings(*BATCHER)
def adopt_ledger(
    settings: BatcherSettings,
    target: Target,
    identity: Annotated[
        str,
        typer.Option("--identity", metavar="ID", help="The ledger's, as the error says; none for a sink without one."),
    ],
) -> None:
    """Have a batcher go on in another ledger, after its database was replaced on purpose.

    Request ids that only the earlier ledger knows are applied again if they are submitted again.
    """
    ledger = None if identity == "none" else identity
    run(_control(settings, target, lambda handle: handle.adopt_ledger(ledger), f"goes on in the ledger {identity}"))


@app.command()
@with_settings(*BATCHER)
def drain(settings: BatcherSettings, target: Target) -> None:
    """Take no new request and write all that is pending."""
    run(
        _control(
            settings,
            target,
            BatcherHandle.drain,
            "is drained: nothing is pending, and it takes no new request until `resume`",
        )
    )


@app.command()
@with_settings(*BATCHER, *POLICY)
def configure(settings: BatcherSettings, target: Target) -> None:
    """Change limits of a running batcher: those given as flags; the others stay as they are."""
    run(_configure(settings, target))


@app.command()
@with_settings("name", "task_queue", "sink")
def audit(
    settings: BatcherSettings,
    target: Target,
    query: Annotated[
        str | None,
        typer.Option("--query", metavar="QUERY", help="Which workflows: a visibility query.", show_default=False),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since", metavar="TIME", help="Only what was asked since then: 24h, or 2026-01-31.", show_default=False
        ),
    ] = None,
    complete: Annotated[
        bool, typer.Option("--complete", help="No one else writes there: an unexpected row is an error.")
    ] = False,
    rule: Annotated[
        list[str] | None,
        typer.Option(
            "--rule",
            metavar="TABLE=RULE",
            help="What a conflict does there: ignore, or update:COLUMN,... May be repeated.",
            show_default=False,
        ),
    ] = None,
    ledger: Annotated[str, typer.Option("--ledger", metavar="TABLE", help="The ledger's table.")] = "batching_ledger",
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Compare what callers asked for and got with the ledger and the rows.

    Exit status 0 if every promise was kept, 1 if one was not, 2 if that could not be found out.
    """
    run(_audit(settings, target, (query, since, complete, ledger, rule or []), json))


LettersTable = Annotated[str, typer.Option("--table", metavar="TABLE", help="The table of dead letters.")]


@app.command("dead-letters")
@with_settings("name", "sink")
def dead_letters(
    settings: BatcherSettings,
    target: Target,
    table: LettersTable = "batching_dead_letters",
    json: Annotated[bool, typer.Option("--json", help="A JSON object each, with the records.")] = False,
) -> None:
    """List the batcher's rejected requests that nobody waited for: signals without `reply_to`."""
    run(_list_dead_letters(settings, table, json))


@app.command()
@with_settings(*BATCHER, "sink")
def replay(
    settings: BatcherSettings,
    target: Target,
    letters: Annotated[list[str] | None, typer.Argument(metavar="[LETTER]...", show_default=False)] = None,
    every: Annotated[bool, typer.Option("--all", help="All that there are.")] = False,
    table: LettersTable = "batching_dead_letters",
) -> None:
    """Send the batcher's dead letters through it again. Exit status 0 only if all of them are written then."""
    run(_replay(settings, target, table, letters or [], every))


async def _list_dead_letters(settings: BatcherSettings, table: str, json: bool) -> int:
    with _sql_is_there("dead letters need"):
        from temporal_batching.cli.dead_letters import list_dead_letters
    return await list_dead_letters(settings, table, as_json=json)


async def _replay(settings: BatcherSettings, target: Target, table: str, letters: list[str], every: bool) -> int:
    with _sql_is_there("dead letters need"):
        from temporal_batching.cli.dead_letters import replay_dead_letters
    return await replay_dead_letters(await _connect(settings, target), settings, table, letters, every=every)


@contextmanager
def _sql_is_there(who_needs: str) -> Iterator[None]:
    try:
        yield
    except ImportError as err:
        raise CommandError(f"{who_needs} the extra 'sql', for PostgreSQL 'postgresql': {err}") from None


async def _audit(settings: BatcherSettings, target: Target, scope: tuple[Any, ...], json: bool) -> int:
    try:
        with _sql_is_there("an audit needs"):
            from temporal_batching.cli.audit import Scope, audit_deployment
        return await audit_deployment(settings, target, Scope(*scope), as_json=json)
    except BatchingError as problem:
        complain(problem)
        return EXIT_TROUBLE


async def _connect(settings: BatcherSettings, target: Target) -> Client:
    """A client that can read what the batcher's shards say."""
    client = await connect_to(target)
    await check_readable(client, settings)
    return client


async def _start(settings: BatcherSettings, target: Target) -> int:
    client = await _connect(settings, target)
    await _ask(settings, monitoring.handle_for(client, settings).start(_policy(settings)))
    out.print(f"Batcher '{settings.name}' runs: {plural(settings.shards, 'shard')}.")
    return 0


def command_named(name: str) -> Callable[..., None]:
    """One command by itself, for a script that stands for it."""
    group: Any = typer.main.get_command(app)
    command: Callable[..., None] = group.commands[name]
    return command


def _policy(settings: BatcherSettings) -> BatchPolicy | None:
    """The limits somebody set; None leaves them to the batcher's worker."""
    return settings.policy() if settings.model_fields_set & set(POLICY_FIELDS) else None


async def _monitor(settings: BatcherSettings, target: Target, interval: str, once: bool, *, start_first: bool) -> int:
    try:
        every = parse_duration(interval)
    except ValueError as err:
        raise SettingsError(f"--interval {interval!r}: {err}") from None
    client = await _connect(settings, target)
    if start_first:
        await _ask(settings, monitoring.handle_for(client, settings).start(_policy(settings)))
    return await monitoring.monitor(client, settings, interval=every, once=once)


async def _stats(settings: BatcherSettings, target: Target, json: bool) -> int:
    shards = await monitoring.read_stats(await _connect(settings, target), settings)
    if json:
        out.print(monitoring.as_json(shards), markup=False)
    else:
        monitoring.show(shards)
    return 0


async def _control(
    settings: BatcherSettings, target: Target, command: Callable[[BatcherHandle], Awaitable[object]], done: str
) -> int:
    client = await _connect(settings, target)
    # A command to a shard that no worker serves would wait for one: ask first, which fails soon.
    await monitoring.read_stats(client, settings)
    await _ask(settings, command(monitoring.handle_for(client, settings)))
    out.print(f"Batcher '{settings.name}' {done} ({plural(settings.shards, 'shard')}).")
    return 0


async def _configure(settings: BatcherSettings, target: Target) -> int:
    changed = sorted(target.flags & set(POLICY_FIELDS))
    if not changed:
        raise SettingsError(f"nothing to change: pass a limit, such as {flag('linger')} 5s")
    client = await _connect(settings, target)
    current = BatchPolicy.from_wire((await monitoring.read_stats(client, settings))[0].policy)
    policy = dataclasses.replace(current, **{name: getattr(settings, name) for name in changed})
    await _ask(settings, monitoring.handle_for(client, settings).configure(policy))
    limits = policy.to_wire()
    out.print(f"Batcher '{settings.name}': " + ", ".join(f"{name} {limits[name]:g}" for name in changed) + ".")
    return 0


async def _ask(settings: BatcherSettings, request: Awaitable[object]) -> None:
    try:
        await request
    except TimeoutError:
        raise CommandError(f"batcher '{settings.name}' has taken the command, but is not done yet") from None
    except RPCError as err:
        raise CommandError(f"batcher '{settings.name}' cannot be asked: {err.message}") from None
    except WorkflowUpdateFailedError as err:
        raise CommandError(f"batcher '{settings.name}' refused: {err.cause}") from None
