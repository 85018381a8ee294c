"""Stores the facts of an audit in a temporary SQLite file, so that memory does not grow with the number of requests.

The file has no name: SQLite removes it when it is closed and when the process dies. It contains records, so it must not
outlive the audit.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from decimal import Decimal
from hashlib import blake2b
from itertools import groupby
from typing import Any

from temporal_batching.audit.facts import (
    BatchRef,
    CallFact,
    KeptWrite,
    KeyArrival,
    LedgerFact,
    PoolMember,
    RecordMatch,
    RequestCase,
    RequestContent,
    RowPool,
    ShardRun,
)
from temporal_batching.audit.order import ArrivalSpan
from temporal_batching.audit.row_history import SKEW, Period, RowWrite
from temporal_batching.audit.rules import POSITIVE, CallResult
from temporal_batching.contract import INSERT
from temporal_batching.wire.records import load_record, record_to_wire

CASES_AT_ONCE = 500
"""The number of request ids whose facts are in memory at the same time."""

_SCHEMA = """
CREATE TABLE calls (request_id TEXT, caller TEXT, digest TEXT, result TEXT, code TEXT, batch_id TEXT, from_shard INT,
    returned TEXT, complete INT, sent REAL, ended REAL);
CREATE TABLE contents (request_id TEXT, digest TEXT, records TEXT, count INT, PRIMARY KEY (request_id, digest));
CREATE TABLE judged (request_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE known (request_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE ledger (
    request_id TEXT PRIMARY KEY, status TEXT, digest TEXT, batch_id TEXT,
    returned TEXT, batcher TEXT, shard INT, execution TEXT, number INT
) WITHOUT ROWID;
CREATE TABLE matches (
    request_id TEXT, digest TEXT, position INT, table_name TEXT, written INT, pool TEXT, found INT, copies INT,
    difference TEXT
);
CREATE TABLE seen (
    table_name TEXT, row TEXT, pool TEXT, explained INT, PRIMARY KEY (table_name, row, pool)
) WITHOUT ROWID;
CREATE TABLE arrivals (shard INT, chain TEXT, run_started REAL, event INT, key TEXT, request_id TEXT);
CREATE TABLE changes (table_name TEXT, request_id TEXT, digest TEXT);
CREATE TABLE row_writes (table_name TEXT, spot TEXT, key TEXT, request_id TEXT, position INT, write TEXT);
CREATE TABLE shards (shard INT, chain TEXT, first INT, overlapping INT);
"""
_INDEXES = """
CREATE INDEX IF NOT EXISTS calls_by_id ON calls (request_id);
CREATE INDEX IF NOT EXISTS matches_by_id ON matches (request_id);
CREATE INDEX IF NOT EXISTS matches_by_pool ON matches (pool);
CREATE INDEX IF NOT EXISTS arrivals_by_id ON arrivals (request_id);
CREATE INDEX IF NOT EXISTS row_writes_by_key ON row_writes (table_name, spot);
"""


class FactStore:
    """Stores facts one by one, and returns them by request, by pool of equal rows, and by key."""

    def __init__(self) -> None:
        # Several threads use it, one after the other.
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.executescript(_SCHEMA)
        self._db.execute("BEGIN")

    def close(self) -> None:
        self._db.close()

    # From Temporal

    def add_content(self, content: RequestContent) -> None:
        encoded = json.dumps(
            [record_to_wire(record.table, record.values, operation=record.operation) for record in content.records]
        )
        row = [content.request_id, content.digest, encoded, len(content.records)]
        self._db.execute("INSERT OR IGNORE INTO contents VALUES (?, ?, ?, ?)", row)
        changed = {record.table for record in content.records if record.operation != INSERT}
        self._db.executemany(
            "INSERT INTO changes VALUES (?, ?, ?)",
            [[table, content.request_id, content.digest] for table in changed],
        )

    def changed_tables(self) -> set[str]:
        """The tables in which a caller has updated or deleted rows."""
        query = "SELECT DISTINCT table_name FROM changes JOIN calls USING (request_id, digest) WHERE result IN (?, ?)"
        return {row[0] for row in self._db.execute(query, sorted(POSITIVE))}

    def copy_content(self, request_id: str, digest: str, to: str) -> None:
        self._db.execute(
            "INSERT OR IGNORE INTO contents SELECT ?, digest, records, count FROM contents"
            " WHERE request_id = ? AND digest = ?",
            [to, request_id, digest],
        )

    def add_call(self, call: CallFact, *, judged: bool) -> None:
        """Stores a call.

        Args:
            call: The call.
            judged: Whether its request is checked; otherwise the call only explains contents of the database.
        """
        self._db.execute("INSERT OR IGNORE INTO known VALUES (?)", [call.request_id])
        if judged:
            self._db.execute("INSERT OR IGNORE INTO judged VALUES (?)", [call.request_id])
        result = call.result if judged else CallResult.UNKNOWN
        self._db.execute(
            "INSERT INTO calls VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                call.request_id,
                call.caller,
                call.digest,
                result.value,
                call.code,
                call.batch_id,
                call.from_shard,
                call.returned,
                call.complete,
                call.sent,
                call.ended,
            ],
        )

    def add_arrival(self, arrival: KeyArrival) -> None:
        """Stores an arrival; its key only as a hash."""
        mark = blake2b(arrival.key.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
        self._db.execute(
            "INSERT INTO arrivals VALUES (?, ?, ?, ?, ?, ?)",
            [arrival.shard, arrival.chain, arrival.run_started, arrival.event, mark, arrival.request_id],
        )

    def add_shard_run(self, run: ShardRun) -> None:
        """Stores a run of a shard."""
        self._db.execute("INSERT INTO shards VALUES (?, ?, ?, ?)", [run.shard, run.chain, run.first, run.overlapping])

    def finish_collecting(self) -> None:
        """Ends the collection: all facts from Temporal are stored."""
        self._db.executescript(f"{_INDEXES} BEGIN;")  # this commits the open transaction

    # From the database

    def judged_ids(self, most: int) -> Iterator[list[str]]:
        """The request ids that are checked, at most so many at a time."""
        last = ""
        while ids := [
            row[0]
            for row in self._db.execute(
                "SELECT request_id FROM judged WHERE request_id > ? ORDER BY request_id LIMIT ?", [last, most]
            )
        ]:
            yield ids
            last = ids[-1]

    def contents(self, request_ids: Sequence[str]) -> Iterator[RequestContent]:
        """The contents of the requests with these ids."""
        for request_id in request_ids:
            query = "SELECT digest, records FROM contents WHERE request_id = ?"
            for digest, records in self._db.execute(query, [request_id]).fetchall():
                decoded = [load_record(record) for record in json.loads(records)]
                yield RequestContent(request_id, digest, decoded)

    def results_of(self, request_id: str, digest: str) -> set[tuple[CallResult, str]]:
        """The results of all calls for this content, each with the code of a rejection."""
        query = "SELECT result, code FROM calls WHERE request_id = ? AND digest = ?"
        return {(CallResult(result), code) for result, code in self._db.execute(query, [request_id, digest])}

    def add_ledger(self, fact: LedgerFact) -> None:
        """Stores a row of the ledger."""
        batch = BatchRef.parse(fact.batch_id)
        parts = [batch.batcher, batch.shard, batch.execution, batch.number] if batch else [None] * 4
        self._db.execute(
            "INSERT OR REPLACE INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [fact.request_id, fact.status, fact.digest, fact.batch_id, fact.returned, *parts],
        )

    def is_known(self, request_ids: Sequence[str]) -> set[str]:
        """Those of the ids for which there is a call."""
        marks = ", ".join("?" * len(request_ids))
        return {
            row[0]
            for row in self._db.execute(f"SELECT request_id FROM known WHERE request_id IN ({marks})", request_ids)
        }

    def add_match(self, match: RecordMatch) -> None:
        """Stores a record that was looked up."""
        pool, found, copies = None, None, int(match.written)
        if match.rows is not None:
            found = len(match.rows)
            copies = int(match.written and found > 0)
            if match.rows and match.exclusive:
                pool = blake2b("\0".join([match.table, *sorted(match.rows)]).encode(), digest_size=12).hexdigest()
            self._db.executemany(
                "INSERT INTO seen VALUES (?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET explained = max(explained, excluded.explained)",
                [(match.table, row, pool or "", match.written) for row in match.rows],
            )
        request = [match.request_id, match.digest, match.position, match.table, match.written]
        self._db.execute(
            "INSERT INTO matches VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", [*request, pool, found, copies, match.difference]
        )

    def add_row_write(self, kept: KeptWrite) -> None:
        """Stores a written record of a table whose rows change."""
        write = kept.write
        parts = {
            "deletes": write.deletes,
            "whole": write.whole,
            "sets": list(write.sets),
            "leaves": list(write.leaves),
            "adds": {name: _text(number) for name, number in write.adds.items()},
            "numbers": {name: _text(number) for name, number in write.numbers.items()},
            "row": write.row,
            "differs": list(write.differs),
            "found": {name: n if isinstance(n, float | None) else str(n) for name, n in write.found.items()},
        }
        self._db.execute(
            "INSERT INTO row_writes VALUES (?, ?, ?, ?, ?, ?)",
            [kept.table, kept.spot, kept.key, write.request_id, write.position, json.dumps(parts)],
        )

    def row_writes(self) -> Iterator[list[KeptWrite]]:
        """The records of each row, or of rows whose keys differ only in spelling, with their periods."""
        rows = self._db.execute(
            "SELECT table_name, spot, key, request_id, position, write FROM row_writes ORDER BY table_name, spot"
        )
        for _, group in groupby(rows, key=lambda row: row[:2]):
            one = list(group)
            periods = {request_id: self._period(request_id) for request_id in {row[3] for row in one}}
            yield [_read_row_write(row, periods[row[3]]) for row in one]

    def _period(self, request_id: str) -> Period:
        """When a request was applied, as far as the histories show it."""
        period = Period()
        calls = self._db.execute("SELECT caller, result, sent, ended FROM calls WHERE request_id = ?", [request_id])
        found = calls.fetchall()
        sent = [row[2] for row in found]
        if sent and all(sent):
            period.begins["server"] = min(sent)
            if len({row[0] for row in found}) == 1:
                period.begins["caller", found[0][0]] = min(sent)
        for caller, result, _, ended in found:
            if ended and CallResult(result) in POSITIVE:
                for clock, end in (("server", ended + SKEW), (("caller", caller), ended)):
                    period.ends[clock] = min(period.ends.get(clock, end), end)
        arrivals = self._db.execute(
            "SELECT shard, chain, key, min(printf('%020.6f %09d', run_started, event)),"
            "  max(printf('%020.6f %09d', run_started, event)) FROM arrivals WHERE request_id = ?"
            " GROUP BY shard, chain, key",
            [request_id],
        ).fetchall()
        if len(arrivals) == 1:  # in several shards, or again after the shard was started again, it has no order
            shard, chain, key, first, last = arrivals[0]
            period.begins["key", shard, chain, key], period.ends["key", shard, chain, key] = first, last
        return period

    def uneven_pools(self) -> list[RowPool]:
        """The pools whose number of rows differs from that of their written records."""
        query = (
            "SELECT pool, min(table_name), min(found), sum(written) FROM matches WHERE pool IS NOT NULL"
            " GROUP BY pool HAVING min(found) <> sum(written)"
        )
        return [RowPool(*row) for row in self._db.execute(query)]

    def is_ambiguous(self, pool: RowPool) -> bool:
        """Whether some rows of the pool also match records of another pool."""
        query = (
            "SELECT 1 FROM seen AS mine JOIN seen AS other ON other.table_name = mine.table_name"
            " AND other.row = mine.row AND other.pool NOT IN (mine.pool, '') WHERE mine.pool = ? AND"
            " mine.table_name = ? LIMIT 1"
        )
        return self._db.execute(query, [pool.id, pool.table]).fetchone() is not None

    def members(self, pool: RowPool) -> list[PoolMember]:
        """The records of a pool: those that are not written first, then in the order of their batches."""
        rows = self._db.execute(
            "SELECT m.rowid, m.request_id, m.digest, m.written FROM matches m LEFT JOIN ledger l USING (request_id)"
            " WHERE pool = ? ORDER BY m.written, l.number, m.request_id, m.position",
            [pool.id],
        )
        return [PoolMember(match, request_id, digest, bool(written)) for match, request_id, digest, written in rows]

    def set_copies(self, member: PoolMember, copies: int) -> None:
        """Sets how many of the pool's rows belong to this record."""
        self._db.execute("UPDATE matches SET copies = ? WHERE rowid = ?", [copies, member.match])

    def unexplained(self, table: str, rows: Sequence[str]) -> list[str]:
        """Those of a table's rows that belong to no written record."""
        marks = ", ".join("?" * len(rows))
        seen = {
            row[0]
            for row in self._db.execute(
                f"SELECT row FROM seen WHERE table_name = ? AND explained AND row IN ({marks})", [table, *rows]
            )
        }
        return [row for row in rows if row not in seen]

    def count_results(self) -> dict[str, int]:
        """The number of calls by result."""
        query = "SELECT result, count(*) FROM calls WHERE NOT from_shard GROUP BY result ORDER BY result"
        return dict(self._db.execute(query).fetchall())

    # To the rules

    def cases(self) -> Iterator[RequestCase]:
        """All facts about each request that is checked."""
        for ids in self.judged_ids(CASES_AT_ONCE):
            marks = ", ".join("?" * len(ids))
            calls = self._grouped(f"SELECT * FROM calls WHERE request_id IN ({marks})", ids)
            counts = self._grouped(f"SELECT request_id, digest, count FROM contents WHERE request_id IN ({marks})", ids)
            ledger = self._grouped(
                f"SELECT request_id, status, digest, batch_id, 0.0, returned FROM ledger WHERE request_id IN ({marks})",
                ids,
            )
            matches = self._grouped(
                f"SELECT request_id, digest, position, copies, difference FROM matches WHERE request_id IN ({marks})",
                ids,
            )
            for request_id in ids:
                found = matches.get(request_id, [])
                yield RequestCase(
                    request_id,
                    calls=[_read_call(row) for row in calls.get(request_id, [])],
                    record_counts={digest: count for _, digest, count in counts.get(request_id, [])},
                    ledger=next((LedgerFact(*row) for row in ledger.get(request_id, [])), None),
                    copies={(digest, position): copies for _, digest, position, copies, _ in found},
                    differences=[difference for *_, difference in found if difference],
                )

    def _grouped(self, query: str, ids: Sequence[str]) -> dict[str, list[Any]]:
        rows = sorted(self._db.execute(query, ids), key=lambda row: str(row[0]))
        return {request_id: list(group) for request_id, group in groupby(rows, key=lambda row: row[0])}

    def spans(self, batcher: str) -> Iterator[tuple[int, list[ArrivalSpan]]]:
        """When written requests arrived and when they were written, by shard and key.

        Only shards with a complete history and without overlapping flushes are included. A request that arrived in
        several shards, or again after the shard was started again, has no defined order and is left out.

        Args:
            batcher: The batcher's name.
        """
        rows = self._db.execute(
            "WITH ordered AS (SELECT shard, chain FROM shards GROUP BY shard, chain"
            "  HAVING max(first) = 1 AND max(overlapping) = 0),"
            " alone AS (SELECT request_id FROM arrivals GROUP BY request_id"
            "  HAVING count(DISTINCT shard || ' ' || chain) = 1)"
            " SELECT a.shard, a.chain, a.key, a.request_id, l.number,"
            "  min(printf('%020.6f %09d', run_started, event)), max(printf('%020.6f %09d', run_started, event))"
            " FROM arrivals a JOIN ordered USING (shard, chain) JOIN alone USING (request_id)"
            " JOIN ledger l ON l.request_id = a.request_id AND l.shard = a.shard"
            " WHERE l.status = 'written' AND l.batcher = ?"
            "  AND substr(a.chain, -length(l.execution)) = l.execution"
            " GROUP BY a.shard, a.chain, a.key, a.request_id ORDER BY a.shard, a.chain, a.key",
            [batcher],
        )
        for (shard, _, _), group in groupby(rows, key=lambda row: row[:3]):
            yield shard, [ArrivalSpan(row[3], row[5], row[6], row[4]) for row in group]

    def shards_without_order(self) -> tuple[int, int]:
        """The number of chains of runs without their first runs, and of those with overlapping flushes."""
        query = (
            "SELECT count(*) FILTER (WHERE NOT overlapping), count(*) FILTER (WHERE overlapping)"
            " FROM (SELECT max(first) AS first, max(overlapping) AS overlapping FROM shards GROUP BY shard, chain)"
            " WHERE overlapping OR NOT first"
        )
        cut, overlapping = self._db.execute(query).fetchone()
        return cut, overlapping


def _text(number: Decimal | None) -> str | None:
    return None if number is None else str(number)


def _read_row_write(row: Sequence[Any], period: Period) -> KeptWrite:
    table, spot, key, request_id, position, encoded = row
    parts = json.loads(encoded)
    for name in ("adds", "numbers", "found"):
        parts[name] = {column: Decimal(n) if isinstance(n, str) else n for column, n in parts[name].items()}
    return KeptWrite(table, key, spot, RowWrite(request_id, position, period, **parts))


def _read_call(row: Sequence[Any]) -> CallFact:
    request_id, caller, digest, result, code, batch_id, from_shard, returned, complete, sent, ended = row
    return CallFact(
        caller,
        request_id,
        digest,
        CallResult(result),
        code,
        batch_id,
        bool(from_shard),
        returned,
        bool(complete),
        sent,
        ended,
    )
