"""The facts of an audit, in a temporary SQLite file: memory stays small however many requests there are.

The file has no name: SQLite removes it when it is closed, and when the process dies. It holds records, so nothing of it
may outlive the audit.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import groupby
from typing import Any

from temporal_batching.audit.judge import Span, Verdict
from temporal_batching.contract import Record
from temporal_batching.sinks.ledger import LedgerEntry

UNREADABLE = "unreadable"
"""Stands for the digest of records that have none: they are not JSON, or not records."""

_SCHEMA = """
CREATE TABLE calls (request_id TEXT, caller TEXT, digest TEXT, verdict TEXT, code TEXT, batch TEXT, witness INT);
CREATE TABLE contents (request_id TEXT, digest TEXT, records TEXT, count INT, PRIMARY KEY (request_id, digest));
CREATE TABLE judged (request_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE known (request_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE ledger (request_id TEXT PRIMARY KEY, written INT, digest TEXT, batch TEXT, number INT) WITHOUT ROWID;
CREATE TABLE matches (
    request_id TEXT, digest TEXT, position INT, table_name TEXT, wanted INT, pool TEXT, found INT, copies INT, note TEXT
);
CREATE TABLE seen (
    table_name TEXT, row TEXT, pool TEXT, explained INT, PRIMARY KEY (table_name, row, pool)
) WITHOUT ROWID;
CREATE TABLE arrivals (shard INT, chain TEXT, run REAL, event INT, key TEXT, request_id TEXT);
CREATE TABLE shards (shard INT, chain TEXT, whole INT, overlapping INT);
"""
_INDEXES = """
CREATE INDEX IF NOT EXISTS calls_by_id ON calls (request_id);
CREATE INDEX IF NOT EXISTS matches_by_id ON matches (request_id);
CREATE INDEX IF NOT EXISTS matches_by_pool ON matches (pool);
CREATE INDEX IF NOT EXISTS arrivals_by_id ON arrivals (request_id);
"""


@dataclass(frozen=True)
class Told:
    """One call, as far as Temporal knows it.

    Attributes:
        caller: The workflow or the activity.
        request_id: The idempotency key.
        digest: Of the records it asked for; empty where only the answer is known.
        verdict: What the caller was told.
        code: Why it was rejected.
        batch: The batch that it was told of.
        witness: It is the batcher's history that says so, not the caller's.
    """

    caller: str
    request_id: str
    digest: str
    verdict: Verdict
    code: str = ""
    batch: str = ""
    witness: bool = False


@dataclass
class Match:
    """A record that was looked up.

    Attributes:
        request_id: Its request.
        digest: The request's content.
        position: Of the record in its request.
        table: Where it belongs.
        wanted: Whether the ledger says that it is there.
        rows: The rows that hold its values; None if that could not be found out.
        exclusive: Whether each of these rows belongs to one record. Not so where a conflict keeps or overwrites a row.
        note: The columns that differ from what was asked for.
    """

    request_id: str
    digest: str
    position: int
    table: str
    wanted: bool
    rows: Sequence[str] | None
    exclusive: bool = True
    note: str = ""


@dataclass
class Case:
    """All about one request id that the judge needs."""

    request_id: str
    calls: list[Told]
    counts: dict[str, int]
    ledger: LedgerFact | None
    copies: dict[tuple[str, int], int]
    notes: list[str]


@dataclass(frozen=True)
class LedgerFact:
    written: bool
    digest: str
    batch: str


@dataclass(frozen=True)
class Pool:
    """Rows that are alike, and the records that may be theirs."""

    id: str
    table: str
    found: int
    wanted: int


class Facts:
    """What was asked, told and found."""

    def __init__(self) -> None:
        # Several threads, one after the other.
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.executescript(_SCHEMA)
        self._db.execute("BEGIN")

    def close(self) -> None:
        self._db.close()

    # From Temporal

    def add_content(self, request_id: str, digest: str, records: Sequence[Record]) -> None:
        """Keeps what was asked for under an id."""
        encoded = json.dumps([[record.table, record.values] for record in records])
        self._db.execute(
            "INSERT OR IGNORE INTO contents VALUES (?, ?, ?, ?)", [request_id, digest, encoded, len(records)]
        )

    def copy_content(self, request_id: str, digest: str, to: str) -> None:
        self._db.execute(
            "INSERT OR IGNORE INTO contents SELECT ?, digest, records, count FROM contents"
            " WHERE request_id = ? AND digest = ?",
            [to, request_id, digest],
        )

    def add_call(self, told: Told, *, judged: bool) -> None:
        """Keeps a call. One that is not ``judged`` only explains what the database holds."""
        self._db.execute("INSERT OR IGNORE INTO known VALUES (?)", [told.request_id])
        if judged:
            self._db.execute("INSERT OR IGNORE INTO judged VALUES (?)", [told.request_id])
        verdict = told.verdict if judged else Verdict.UNKNOWN
        self._db.execute(
            "INSERT INTO calls VALUES (?, ?, ?, ?, ?, ?, ?)",
            [told.request_id, told.caller, told.digest, verdict.value, told.code, told.batch, told.witness],
        )

    def add_arrival(self, shard: int, chain: str, run: float, event: int, key: str, request_id: str) -> None:
        mark = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
        self._db.execute("INSERT INTO arrivals VALUES (?, ?, ?, ?, ?, ?)", [shard, chain, run, event, mark, request_id])

    def add_shard_run(self, shard: int, chain: str, *, whole: bool, overlapping: bool) -> None:
        self._db.execute("INSERT INTO shards VALUES (?, ?, ?, ?)", [shard, chain, whole, overlapping])

    def gathered(self) -> None:
        """Everything from Temporal is here."""
        self._db.executescript(f"{_INDEXES} BEGIN;")  # it commits what came before

    # From the database

    def judged_ids(self, most: int) -> Iterator[list[str]]:
        last = ""
        while ids := [
            row[0]
            for row in self._db.execute(
                "SELECT request_id FROM judged WHERE request_id > ? ORDER BY request_id LIMIT ?", [last, most]
            )
        ]:
            yield ids
            last = ids[-1]

    def contents(self, request_ids: Sequence[str]) -> Iterator[tuple[str, str, list[Record]]]:
        """Request id, digest and records of all that was asked for under these ids."""
        for request_id in request_ids:
            for digest, records in self._db.execute(
                "SELECT digest, records FROM contents WHERE request_id = ?", [request_id]
            ).fetchall():
                yield request_id, digest, [Record(table, values) for table, values in json.loads(records)]

    def verdicts_of(self, request_id: str, digest: str) -> set[tuple[str, str]]:
        """What callers were told of this content, with the code of a rejection."""
        return set(
            self._db.execute(
                "SELECT verdict, code FROM calls WHERE request_id = ? AND digest = ?", [request_id, digest]
            )
        )

    def add_ledger(self, entry: LedgerEntry) -> None:
        number = entry.batch_id.rpartition("/")[2]
        self._db.execute(
            "INSERT OR REPLACE INTO ledger VALUES (?, ?, ?, ?, ?)",
            [
                entry.request_id,
                entry.status == "written",
                entry.digest,
                entry.batch_id,
                int(number) if number.isdigit() and len(number) < 18 else None,
            ],
        )

    def is_known(self, request_ids: Sequence[str]) -> set[str]:
        """Those of these ids that somebody asked under."""
        marks = ", ".join("?" * len(request_ids))
        return {
            row[0]
            for row in self._db.execute(f"SELECT request_id FROM known WHERE request_id IN ({marks})", request_ids)
        }

    def add_match(self, match: Match) -> None:
        pool, found, copies = None, None, int(match.wanted)
        if match.rows is not None:
            found = len(match.rows)
            copies = int(match.wanted and found > 0)
            if match.rows and match.exclusive:
                pool = blake2b("\0".join([match.table, *sorted(match.rows)]).encode(), digest_size=12).hexdigest()
            self._db.executemany(
                "INSERT INTO seen VALUES (?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET explained = max(explained, excluded.explained)",
                [(match.table, row, pool or "", match.wanted) for row in match.rows],
            )
        self._db.execute(
            "INSERT INTO matches VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                match.request_id,
                match.digest,
                match.position,
                match.table,
                match.wanted,
                pool,
                found,
                copies,
                match.note,
            ],
        )

    def uneven_pools(self) -> list[Pool]:
        """Where there are more rows than records to explain them, or fewer."""
        return [
            Pool(*row)
            for row in self._db.execute(
                "SELECT pool, min(table_name), min(found), sum(wanted) FROM matches WHERE pool IS NOT NULL"
                " GROUP BY pool HAVING min(found) <> sum(wanted)"
            )
        ]

    def is_ambiguous(self, pool: Pool) -> bool:
        """Whether some of its rows fit the records of another pool too."""
        query = (
            "SELECT 1 FROM seen AS mine JOIN seen AS other ON other.table_name = mine.table_name"
            " AND other.row = mine.row AND other.pool NOT IN (mine.pool, '') WHERE mine.pool = ? AND"
            " mine.table_name = ? LIMIT 1"
        )
        return self._db.execute(query, [pool.id, pool.table]).fetchone() is not None

    def members(self, pool: Pool) -> list[tuple[int, str, str, bool]]:
        """The records of a pool: a handle to `set_copies`, request id, digest, and whether it is wanted."""
        rows = self._db.execute(
            "SELECT m.rowid, m.request_id, m.digest, m.wanted FROM matches m LEFT JOIN ledger l USING (request_id)"
            " WHERE pool = ? ORDER BY m.wanted, l.number, m.request_id, m.position",
            [pool.id],
        )
        return [(handle, request_id, digest, bool(wanted)) for handle, request_id, digest, wanted in rows]

    def set_copies(self, handle: int, copies: int) -> None:
        self._db.execute("UPDATE matches SET copies = ? WHERE rowid = ?", [copies, handle])

    def unexplained(self, table: str, rows: Sequence[str]) -> list[str]:
        """Those of a table's rows that no written record was found to be."""
        marks = ", ".join("?" * len(rows))
        seen = {
            row[0]
            for row in self._db.execute(
                f"SELECT row FROM seen WHERE table_name = ? AND explained AND row IN ({marks})", [table, *rows]
            )
        }
        return [row for row in rows if row not in seen]

    def count(self, what: str) -> int:
        """How many rows one of the tables above has."""
        counted: int = self._db.execute(f"SELECT count(*) FROM {what}").fetchone()[0]
        return counted

    def verdicts(self) -> dict[str, int]:
        """What callers were told, counted."""
        query = "SELECT verdict, count(*) FROM calls WHERE NOT witness GROUP BY verdict ORDER BY verdict"
        return dict(self._db.execute(query).fetchall())

    # To the judge

    def cases(self) -> Iterator[Case]:
        for ids in self.judged_ids(500):
            marks = ", ".join("?" * len(ids))
            calls = self._grouped(f"SELECT * FROM calls WHERE request_id IN ({marks})", ids)
            contents = self._grouped(
                f"SELECT request_id, digest, count FROM contents WHERE request_id IN ({marks})", ids
            )
            ledger = self._grouped(f"SELECT * FROM ledger WHERE request_id IN ({marks})", ids)
            matches = self._grouped(f"SELECT * FROM matches WHERE request_id IN ({marks})", ids)
            for request_id in ids:
                told = [
                    Told(caller, of, digest, Verdict(verdict), code, batch, bool(witness))
                    for of, caller, digest, verdict, code, batch, witness in calls.get(request_id, [])
                ]
                entry = next(iter(ledger.get(request_id, [])), None)
                mine = matches.get(request_id, [])
                yield Case(
                    request_id,
                    told,
                    {digest: count for _, digest, count in contents.get(request_id, [])},
                    LedgerFact(bool(entry[1]), entry[2], entry[3]) if entry else None,
                    {(match[1], match[2]): match[7] for match in mine},
                    [match[8] for match in mine if match[8]],
                )

    def _grouped(self, query: str, ids: Sequence[str]) -> dict[str, list[Any]]:
        rows = sorted(self._db.execute(query, ids), key=lambda row: str(row[0]))
        return {request_id: list(group) for request_id, group in groupby(rows, key=lambda row: row[0])}

    def queues(self, batcher: str) -> Iterator[tuple[int, list[Span]]]:
        """For each shard whose history is whole and whose flushes came one by one: a key's requests that were written.

        A request that arrived in several shards, or again after the shard was started anew, tells nothing.
        """
        rows = self._db.execute(
            "WITH honest AS (SELECT shard, chain FROM shards GROUP BY shard, chain"
            "  HAVING max(whole) = 1 AND max(overlapping) = 0),"
            " alone AS (SELECT request_id FROM arrivals GROUP BY request_id"
            "  HAVING count(DISTINCT shard || ' ' || chain) = 1)"
            " SELECT shard, chain, key, request_id, min(run), max(run), number,"
            "  min(printf('%020.6f %09d', run, event)), max(printf('%020.6f %09d', run, event))"
            " FROM arrivals JOIN honest USING (shard, chain) JOIN alone USING (request_id)"
            " JOIN ledger USING (request_id)"
            " WHERE written AND number IS NOT NULL AND batch GLOB ? || '-' || shard || '.*/' || number"
            " GROUP BY shard, chain, key, request_id ORDER BY shard, chain, key",
            [batcher],
        )
        for (shard, _, _), group in groupby(rows, key=lambda row: row[:3]):
            yield shard, [Span(row[3], row[7], row[8], row[6]) for row in group]

    def shards_without_order(self) -> dict[str, int]:
        """Shards of which the order cannot be told, by the reason."""
        rows = self._db.execute(
            "SELECT max(overlapping), count(*) FROM (SELECT max(whole) AS whole, max(overlapping) AS overlapping"
            " FROM shards GROUP BY shard, chain) WHERE overlapping OR NOT whole GROUP BY overlapping"
        )
        words = {0: "order: a shard's earlier runs are gone", 1: "order: a shard had several flushes at a time"}
        return {words[int(overlapping)]: count for overlapping, count in rows}


def chunks(of: Iterable[Any], size: int) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    for one in of:
        chunk.append(one)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
