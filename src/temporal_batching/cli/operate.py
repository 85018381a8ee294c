"""``temporal-batching start``, ``flush``, ``pause``, ``resume``, ``drain`` and so on: a running batcher in hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from typing import Annotated

import typer
from temporalio.client import WorkflowUpdateFailedError
from temporalio.service import RPCError

from temporal_batching import BatcherHandle, BatchPolicy
from temporal_batching.cli.connect import Target, connect_to_batcher
from temporal_batching.cli.console import CommandError, out, plural, run
from temporal_batching.cli.monitor import handle_for, read_stats
from temporal_batching.cli.options import BATCHER, POLICY, with_settings
from temporal_batching.settings import POLICY_FIELDS, BatcherSettings, SettingsError, flag


@with_settings(*BATCHER, *POLICY)
def start(settings: BatcherSettings, target: Target) -> None:
    """Start the batcher's workflows, or find them running."""
    run(_start(settings, target))


@with_settings(*BATCHER)
def flush(settings: BatcherSettings, target: Target) -> None:
    """Write what is pending now, without waiting for a fuller batch."""
    run(_control(settings, target, BatcherHandle.flush, "has written what was pending"))


@with_settings(*BATCHER)
def pause(settings: BatcherSettings, target: Target) -> None:
    """Start no flush until `resume`: requests wait in the buffer, up to their deadlines."""
    run(_control(settings, target, BatcherHandle.pause, "is paused"))


@with_settings(*BATCHER)
def resume(settings: BatcherSettings, target: Target) -> None:
    """End a pause or a drain."""
    run(_control(settings, target, BatcherHandle.resume, "runs"))


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


@with_settings(*BATCHER, *POLICY)
def configure(settings: BatcherSettings, target: Target) -> None:
    """Change limits of a running batcher: those given as flags; the others stay as they are."""
    run(_configure(settings, target))


async def _start(settings: BatcherSettings, target: Target) -> int:
    client = await connect_to_batcher(target, settings)
    await _ask(settings, handle_for(client, settings).start(settings.given_policy()))
    out.print(f"Batcher '{settings.name}' runs: {plural(settings.shards, 'shard')}.")
    return 0


async def _control(
    settings: BatcherSettings, target: Target, command: Callable[[BatcherHandle], Awaitable[object]], done: str
) -> int:
    client = await connect_to_batcher(target, settings)
    # A command to a shard that no worker serves would wait for one: ask first, which fails soon.
    await read_stats(client, settings)
    await _ask(settings, command(handle_for(client, settings)))
    out.print(f"Batcher '{settings.name}' {done} ({plural(settings.shards, 'shard')}).")
    return 0


async def _configure(settings: BatcherSettings, target: Target) -> int:
    changed = sorted(target.flags & set(POLICY_FIELDS))
    if not changed:
        raise SettingsError(f"nothing to change: pass a limit, such as {flag('linger')} 5s")
    client = await connect_to_batcher(target, settings)
    current = BatchPolicy.from_wire((await read_stats(client, settings))[0].policy)
    policy = dataclasses.replace(current, **{name: getattr(settings, name) for name in changed})
    await _ask(settings, handle_for(client, settings).configure(policy))
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
