"""Takes the facts when everything is over, and has them judged: callers, ledger, rows, and the shards' histories."""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from temporalio.api.enums.v1 import EventType, WorkflowTaskFailedCause
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client

from temporal_batching.audit.order import Arrival
from temporal_batching.audit.rules import POSITIVE, Call, CallResult, StoredRecord, find_violations
from temporal_batching.contract import SIGNAL_ADD, UPDATE_SUBMIT
from temporal_batching.routing import batcher_workflow_id
from tests.support.callers import CallerResult
from tests.support.databases import TestDatabase

TABLE = "facts"

_NUMBERED = {
    "postgresql": "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    "sqlite": "integer PRIMARY KEY AUTOINCREMENT",
    "mariadb": "bigint AUTO_INCREMENT PRIMARY KEY",
}
_HARMLESS = {
    WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND,
    WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_FORCE_CLOSE_COMMAND,
}
_ERRORS = {
    "WriteNotSubmitted": CallResult.NOT_SUBMITTED,
    "WriteNotConfirmed": CallResult.NOT_CONFIRMED,
    "WriteExpired": CallResult.EXPIRED,
    "WriteRejected": CallResult.REJECTED,
}


@dataclass
class Asked:
    """One write that a caller was started for, and what came of it.

    Attributes:
        caller: Who asks.
        way_in: How it reaches the batcher.
        request_id: The write's id.
        key: What decides its shard and its order.
        records: How many it has.
        content: What they say.
        asked_at: When, in seconds since the epoch.
        result: The result that the caller received; None while it waits.
        told_at: When that was.
        failed: How its workflow ended, if it did not end well.
    """

    caller: str
    way_in: str
    request_id: str
    key: str
    records: int
    content: str
    asked_at: float = field(default_factory=time.time)
    result: CallerResult | None = None
    notified_at: float = 0.0
    failed: str = ""

    @property
    def verdict(self) -> CallResult | None:
        if self.result is None:
            return None
        return _ERRORS[self.result.error] if self.result.error else CallResult(self.result.outcome)

    def learned_nothing(self) -> None:
        """The caller was gone before it was notified."""
        self.result, self.notified_at = CallerResult("", self.request_id, error="WriteNotConfirmed"), time.time()

    def was_notified(self, result: CallerResult) -> None:
        self.result, self.notified_at = result, time.time()


def create_table(database: TestDatabase) -> None:
    """A table that would take anything twice, in which every row says where it came from."""
    database.execute(
        f"CREATE TABLE {TABLE} (number {_NUMBERED[database.dialect]}, request_id text NOT NULL,"
        " position integer NOT NULL, content text NOT NULL)"
    )


def slow_down(database: TestDatabase, seconds: float) -> None:
    """Makes every statement that inserts facts take a while: in MariaDB, every row of it."""
    if database.dialect == "mariadb":
        database.execute(f"CREATE TRIGGER dawdle BEFORE INSERT ON {TABLE} FOR EACH ROW DO SLEEP({seconds})")
        return
    database.execute(
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql"
        f" AS $$ BEGIN PERFORM pg_sleep({seconds}); RETURN NULL; END $$"
        f";;CREATE TRIGGER dawdle AFTER INSERT ON {TABLE} EXECUTE FUNCTION dawdle()"
    )


@contextlib.contextmanager
def full_disk(database: TestDatabase) -> Iterator[None]:
    """PostgreSQL cannot store another fact: what it says then, and how it says it."""
    database.execute(
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION"
        " 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$"
        f";;CREATE TRIGGER full_disk BEFORE INSERT ON {TABLE} EXECUTE FUNCTION full_disk()"
    )
    try:
        yield
    finally:
        database.execute(f"DROP TRIGGER full_disk ON {TABLE};;DROP FUNCTION full_disk")


def verdicts(asked: Iterable[Asked]) -> dict[str, int]:
    return dict(Counter(str(one.verdict) for one in asked))


async def assert_callers_were_told_the_truth(
    client: Client, batcher: str, shards: int, database: TestDatabase, asked: Sequence[Asked]
) -> None:
    """Every caller was notified, the database has nothing else, each key kept its order, no workflow task failed."""
    calls = [Call(a.caller, a.request_id, a.content, a.records, a.verdict) for a in asked]
    rows = [
        StoredRecord(*row)
        for row in database.rows(f"SELECT request_id, content, position FROM {TABLE} ORDER BY number")
    ]
    ledger = [row[0] for row in database.rows("SELECT request_id FROM batching_ledger WHERE status = 'written'")]
    events_of = await histories(client, batcher, shards)
    arrivals = [
        Arrival(shard, wire["request_id"], wire.get("key", ""))
        for shard, events in enumerate(events_of)
        for event in events
        for wire in await _requests(client, event)
    ]
    broken = find_violations(calls, rows, ledger, arrivals)
    assert not broken, f"{len(broken)} promises broken:\n" + "\n".join(map(str, broken[:40]))
    _assert_each_got_the_keys_of_its_own_rows(database, asked)
    failures = [failure for events in events_of for failure in _task_failures(events)]
    assert not failures, f"a shard's workflow task failed: {failures[:5]}"


def _assert_each_got_the_keys_of_its_own_rows(database: TestDatabase, asked: Sequence[Asked]) -> None:
    numbers = {
        (request_id, position): number
        for request_id, position, number in database.rows(f"SELECT request_id, position, number FROM {TABLE}")
    }
    query = "SELECT request_id, returned FROM batching_ledger WHERE returned IS NOT NULL"
    returned = {request_id: json.loads(rows) for request_id, rows in database.rows(query)}
    for request_id, rows in returned.items():
        # Records for other tables come after the facts; what they return is compared elsewhere.
        facts = [numbers[request_id, n] for n in range(len(rows)) if (request_id, n) in numbers]
        assert rows[: len(facts)] == [{"number": key, "position": n} for n, key in enumerate(facts)], request_id
        assert not any("number" in row for row in rows[len(facts) :]), request_id
    wrong = [
        one.request_id
        for one in asked
        if one.verdict in POSITIVE and one.result is not None and one.result.returned != returned.get(one.request_id)
    ]
    assert not wrong, f"{len(wrong)} received other values than were returned: {wrong[:5]}"


async def histories(client: Client, batcher: str, shards: int) -> list[list[HistoryEvent]]:
    """The events of each shard, over all its runs."""
    return [await _history(client, batcher_workflow_id(batcher, shard)) for shard in range(shards)]


async def _history(client: Client, workflow_id: str) -> list[HistoryEvent]:
    events: list[HistoryEvent] = []
    run_id = (await client.get_workflow_handle(workflow_id).describe()).run_id
    while run_id:
        handle = client.get_workflow_handle(workflow_id, run_id=run_id)
        events[:0] = [event async for event in handle.fetch_history_events()]
        run_id = events[0].workflow_execution_started_event_attributes.continued_execution_run_id
    return events


def _task_failures(events: Iterable[HistoryEvent]) -> Iterator[str]:
    """Workflow tasks that failed, but for those in which a run could not end for what came in meanwhile."""
    for event in events:
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED:
            failed = event.workflow_task_failed_event_attributes
            if failed.cause not in _HARMLESS:
                yield f"{WorkflowTaskFailedCause.Name(failed.cause)}: {failed.failure.message}"


async def _requests(client: Client, event: HistoryEvent) -> list[dict[str, Any]]:
    if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED:
        request = event.workflow_execution_update_accepted_event_attributes.accepted_request
        name, payloads = request.input.name, request.input.args.payloads
    elif event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
        signal = event.workflow_execution_signaled_event_attributes
        name, payloads = signal.signal_name, signal.input.payloads
    else:
        return []
    if name not in (SIGNAL_ADD, UPDATE_SUBMIT):
        return []
    (sent,) = await client.data_converter.decode(payloads)
    return sent if isinstance(sent, list) else [sent]
