"""What ``size`` and ``savings`` print: lines for people, one JSON object for scripts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping

from temporal_batching.cli.console import plural
from temporal_batching.policy import BatchPolicy
from temporal_batching.sizing import Estimate, Load, Savings

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")
_DAY = 86_400


def sized_as_json(load: Load, policy: BatchPolicy, sized: Estimate) -> str:
    """The load, the policy and what follows from them."""
    given = {"load": dataclasses.asdict(load), "policy": policy.to_wire()}
    return json.dumps({**given, **dataclasses.asdict(sized), "bears": sized.bears})


def saved_as_json(saved: Savings) -> str:
    """What was counted, and what follows from it."""
    counted = dataclasses.asdict(saved)
    retention = None if saved.retention is None else saved.retention.total_seconds()
    return json.dumps(
        {
            **counted,
            "since": saved.since.isoformat(),
            "until": saved.until.isoformat(),
            "retention": retention,
            "written": saved.written,
            "transactions_saved": saved.transactions_saved,
            "records_per_transaction": saved.records_per_transaction,
            "all_actions": saved.all_actions,
            "direct_actions": saved.direct_actions,
            "whole": saved.is_whole,
        }
    )


def sized_lines(load: Load, sized: Estimate) -> Iterator[tuple[str, str]]:
    """Each figure with its name."""
    way = {"activity": "by activity", "signal": "by signal", "write_many": "by write_many"}[load.via]
    gateways = f", {plural(load.gateways, 'gateway')}" if load.via != "signal" else ""
    records = f"{plural(load.records, 'record')}, {load.record_bytes:,} bytes each"
    yield "load", f"{show_number(load.rate)} writes/s of {records}"
    yield "way in", f"{way}{gateways}"
    yield "shards", _shards(sized)
    yield "a batch", f"{show_number(sized.requests_per_batch)} writes, started by {sized.trigger}"
    yield "confirmed within", f"about {show_seconds(sized.wait_seconds)}"
    yield "transactions", f"{show_number(sized.transactions)}/s instead of {show_number(load.rate)}/s"
    if load.via == "signal":
        yield "signals", f"{show_number(sized.signals)}/s"
    else:
        yield "updates", f"{show_number(sized.updates)}/s"
    yield "workflow tasks", f"{show_number(sized.workflow_tasks)}/s"
    yield "history", f"{show_number(sized.history_events)} events/s, {show_bytes(sized.history_bytes)}/s"
    yield "a shard's run", f"{show_seconds(sized.run_seconds)}, ended by its {sized.run_ends_by}"
    yield "billable actions", f"{show_number(sized.actions)}/s, {show_number(sized.actions * _DAY)} a day"
    direct = f"{show_number(sized.actions_direct)}/s"
    yield "without a batcher", f"{direct}: {_difference(sized.actions, sized.actions_direct)}"
    yield "buffers hold", f"{show_seconds(sized.outage_seconds)} of writes while the database is down"
    yield "workers", f"{show_number(sized.worker_cores)} cores"
    yield "a shard's limits", ", ".join(f"{use.limit} {use.used:.0%}" for use in sized.uses)


def _shards(sized: Estimate) -> str:
    why = f"decided by: {sized.decided_by}"
    if sized.shards == sized.shards_needed:
        return f"{sized.shards:,}" if sized.shards == 1 else f"{sized.shards:,}, {why}"
    if sized.bears:
        return f"{sized.shards:,}; {sized.shards_needed:,} would do"
    return f"{sized.shards:,}, too few: {sized.shards_needed:,} are needed, {why}"


def saved_lines(saved: Savings) -> Iterator[tuple[str, str]]:
    """Each figure with its name."""
    began = saved.since.isoformat(sep=" ", timespec="seconds")
    yield "counted", f"since {began}: {plural(saved.shards, 'shard')}, {plural(saved.runs, 'run')}"
    yield "requests", _list(saved.outcomes)
    yield "way in", _list(saved.by_way)
    instead = f"{saved.transactions:,} instead of {saved.written:,}"
    yield "transactions", f"{instead}: {saved.transactions_saved:,} were not needed"
    yield "records in one", f"{saved.records_per_transaction:,.1f}; at most {plural(saved.largest_batch, 'request')}"
    if saved.failed_flushes:
        yield "failed flushes", f"{saved.failed_flushes:,}, each retried"
    yield "history", f"{saved.events:,} events, {show_bytes(saved.history_bytes)}"
    yield "shards' actions", f"{sum(saved.actions.values()):,}: {_list(saved.actions)}"
    yield "callers' actions", f"{saved.caller_actions:,}"
    direct = f"{saved.direct_actions:,} by one activity each"
    yield "without a batcher", f"{direct}: {_difference(saved.all_actions, saved.direct_actions)}"
    for missing in _missing(saved):
        yield "not counted", missing


def _missing(saved: Savings) -> Iterator[str]:
    if saved.retention is not None and saved.until - saved.since > saved.retention:
        kept = show_seconds(saved.retention.total_seconds())
        yield f"runs that ended more than {kept} ago: Temporal keeps them no longer"
    if saved.runs_left_out:
        yield f"{plural(saved.runs_left_out, 'older run')}: more bytes are read with --max-history"
    if saved.runs_deleted:
        yield f"{plural(saved.runs_deleted, 'run')} that Temporal deleted meanwhile"
    if saved.unreadable:
        yield f"{plural(saved.unreadable, 'message')} that this client cannot read"


def _difference(ours: float, theirs: float) -> str:
    if not theirs:
        return f"batching costs {show_number(ours)} more"
    part = (ours - theirs) / theirs
    return f"batching costs {part:.1%} more" if part >= 0 else f"batching costs {-part:.1%} less"


def _list(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count) or "none"


def show_number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def show_bytes(value: float) -> str:
    power = 0
    while value >= 1024 and power < len(_UNITS) - 1:
        value, power = value / 1024, power + 1
    return f"{show_number(value)} {_UNITS[power]}"


def show_seconds(value: float) -> str:
    """A duration in the unit that people would choose: ``490ms``, ``4.4s``, ``28m``, ``12h``, ``3d``."""
    for unit, seconds in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if value >= 2 * seconds:
            return f"{value / seconds:.3g}{unit}"
    return f"{value:.3g}s" if value >= 1 else f"{value * 1_000:.3g}ms"
