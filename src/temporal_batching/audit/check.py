"""Adds what the database holds to the facts, and has all of it judged.

What is read is never changed. Every table is taken to be written by batchers alone: a row that somebody else deletes
or changes is a violation here, for nothing tells the two apart.
"""

from __future__ import annotations

import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa

from temporal_batching.audit.facts import UNREADABLE, Case, Facts, Match, Told
from temporal_batching.audit.isolate import Refused, look_up_each
from temporal_batching.audit.judge import Call, Row, Verdict, Violation, audit, out_of_order
from temporal_batching.audit.rows import (
    Finder,
    Found,
    NotCheckable,
    PostgresqlFinder,
    SqliteFinder,
    Tables,
    Target,
    bind,
    key_for,
)
from temporal_batching.cli.console import CommandError
from temporal_batching.cli.database import sync_engine
from temporal_batching.contract import RejectCode
from temporal_batching.settings import redact_url, without_secrets
from temporal_batching.sinks.ledger import LedgerEntry, LedgerStatus
from temporal_batching.sinks.sql.connect import make_database
from temporal_batching.sinks.sql.database import DatabaseAdapter, SinkCounters
from temporal_batching.sinks.sql.ledger import DEFAULT_LEDGER, ledger_table, read_entry
from temporal_batching.sinks.sql.schema import TableRule

VALUE_ERRORS = (OverflowError, UnicodeError)
"""What a driver raises by itself about a value that it cannot send."""
CHUNK = 500
"""Request ids that are looked up together."""
LEDGER_PAGE = 5_000
MOST_KEPT = 10_000
"""Violations that are kept in words; the others are counted."""


@dataclass(frozen=True)
class Question:
    """What is to be held against what.

    Attributes:
        url: The database.
        batcher: The batcher's name.
        ledger: The ledger's table.
        rules: What a conflict does, where it is not an error.
        complete: Everybody who writes through this ledger is among the facts, so that nothing else may be there.
        since: Seconds since the epoch: what was written earlier is of no concern.
        began: When the audit began; what came later may not be among the facts.
    """

    url: str
    batcher: str
    ledger: str = DEFAULT_LEDGER
    rules: Mapping[str, TableRule] = field(default_factory=dict)
    complete: bool = False
    since: float = 0.0
    began: float = field(default_factory=time.time)


@dataclass
class Findings:
    """What the audit found.

    Attributes:
        requests: Request ids that were judged.
        written: Of them, those that the ledger holds as written.
        records: Records that were looked up.
        outside: Ids of this batcher in the ledger that nobody among the facts asked under.
        broken: Violations by rule.
        violations: The same one by one, the first `MOST_KEPT` of them.
        unchecked: What could not be checked, and how often.
    """

    requests: int = 0
    written: int = 0
    records: int = 0
    outside: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)
    unchecked: Counter[str] = field(default_factory=Counter)

    def add(self, violation: Violation) -> None:
        self.broken[violation.rule] += 1
        if len(self.violations) < MOST_KEPT:
            self.violations.append(violation)


def check(facts: Facts, question: Question) -> Findings:
    """Judges the facts by the database.

    Raises:
        CommandError: The database cannot be asked; without its secrets.
    """
    engine = sync_engine(_for_reading(question.url))
    ledger = ledger_table(question.ledger, schemas=engine.dialect.name == "postgresql")
    # Its limits are for its transactions; here it only says what tables look like.
    limit = timedelta(minutes=1)
    database = make_database(engine, ledger, SinkCounters(), statement_timeout=limit, lock_timeout=limit, wal=False)
    try:
        with _answering(question.url), engine.connect() as connection:
            return _Check(facts, question, connection, database, ledger).run()
    finally:
        engine.dispose()


def _for_reading(url: str) -> str:
    """A SQLite file that is not there must not come to be by being asked."""
    if not url.startswith("sqlite"):
        return url
    parsed = sa.make_url(url)
    name = parsed.database or ""
    if name.startswith("file:"):
        return url
    if not name or not Path(name).is_file():
        raise CommandError(f"{redact_url(url)}: no such file")
    read_only = parsed.set(database=f"file:{quote(name)}", query={"mode": "ro", "uri": "true"})
    return read_only.render_as_string(hide_password=False)


@contextmanager
def _answering(url: str) -> Iterator[None]:
    try:
        yield
    except sa.exc.SQLAlchemyError as err:
        reason = without_secrets(_reason(err), url)
        raise CommandError(f"The database at {redact_url(url)} cannot be audited: {reason}") from None


def _reason(err: Exception) -> str:
    """The driver's own words, of which only the first line is for people, and none holds a value."""
    cause = getattr(err, "orig", None) or err
    return next(iter(str(cause).strip().splitlines()), type(cause).__name__).rstrip(".")


@dataclass
class _Wanted:
    """A record to look up, and for whom."""

    match: Match
    values: Sequence[Any]


class _Check:
    def __init__(
        self, facts: Facts, question: Question, connection: sa.Connection, database: DatabaseAdapter, ledger: sa.Table
    ) -> None:
        self._facts = facts
        self._question = question
        self._connection = connection
        self._database = database
        self._ledger = ledger
        self._found = Findings()
        self._finder: Finder
        if database.engine.dialect.name == "sqlite":
            self._finder = SqliteFinder(connection)
        else:
            connection.execution_options(postgresql_readonly=True)
            self._finder = PostgresqlFinder(connection)
        self._refused: dict[str, str] = {}
        self._partly: set[str] = set()

    def run(self) -> Findings:
        self._tables = Tables(self._connection, self._database, self._question.rules)
        for request_ids in self._facts.judged_ids(CHUNK):
            written = self._look_into_ledger(request_ids)
            self._look_up(request_ids, written)
            # No long transaction: the database could not clean up behind it.
            self._connection.rollback()
        everybody = self._read_ledger()
        self._connection.rollback()
        self._even_out(everybody)
        for case in self._facts.cases():
            self._judge(case)
        self._judge_order()
        if self._question.complete:
            self._look_for_strays()
        self._connection.rollback()
        return self._found

    # The ledger

    def _look_into_ledger(self, request_ids: list[str]) -> dict[str, LedgerEntry]:
        # An id that the database cannot encode is not in its ledger.
        entries = [one.found for one in look_up_each(request_ids, self._entries_of) if one.found]
        for entry in entries:
            self._facts.add_ledger(entry)
        self._found.requests += len(request_ids)
        return {entry.request_id: entry for entry in entries if entry.status is LedgerStatus.WRITTEN}

    def _entries_of(self, request_ids: Sequence[str]) -> list[LedgerEntry | None]:
        query = sa.select(self._ledger).where(self._ledger.c.request_id.in_(request_ids))
        try:
            with self._connection.begin_nested():
                known = {row[0]: read_entry(row) for row in self._connection.execute(query)}
        except (sa.exc.DataError, *VALUE_ERRORS) as err:
            raise Refused(type(err).__name__) from None
        return [known.get(request_id) for request_id in request_ids]

    def _read_ledger(self) -> bool:
        """Looks for ids that nobody asked under. Returns whether there is none: then all that was written is known."""
        # What was written earlier may be in the tables too.
        ledger, last, everybody = self._ledger, "", not self._question.since
        mine = re.compile(rf"{re.escape(self._question.batcher)}-\d+\.[^/]+/\d+")
        while True:
            page = sa.select(ledger).where(ledger.c.request_id > last).order_by(ledger.c.request_id)
            if self._question.since:
                page = page.where(ledger.c.committed_at >= datetime.fromtimestamp(self._question.since, UTC))
            entries = [read_entry(row) for row in self._connection.execute(page.limit(LEDGER_PAGE))]
            if not entries:
                return everybody
            last = entries[-1].request_id
            entries = [entry for entry in entries if entry.status is LedgerStatus.WRITTEN]
            known = self._facts.is_known([entry.request_id for entry in entries])
            for entry in entries:
                if entry.request_id in known:
                    continue
                everybody = False
                if not mine.fullmatch(entry.batch_id):
                    self._found.unchecked["ledger ids of other batchers"] += 1
                elif entry.committed_at.timestamp() >= self._question.began:
                    self._found.unchecked["ledger ids that came while the audit ran"] += 1
                else:
                    self._found.outside += 1
                    if self._question.complete:
                        words = f"written in batch {entry.batch_id}, and nobody asked for it"
                        self._found.add(Violation("ledger id out of nowhere", entry.request_id, words))

    # The rows

    def _look_up(self, request_ids: list[str], written: dict[str, LedgerEntry]) -> None:
        groups: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[_Wanted]] = defaultdict(list)
        for request_id, digest, records in self._facts.contents(request_ids):
            entry = written.get(request_id)
            for position, record in enumerate(records):
                wanted = entry is not None and entry.digest == digest
                match = Match(request_id, digest, position, record.table, wanted, rows=None)
                try:
                    target = self._tables.get(record.table)
                    columns, values = bind(target, record)
                except NotCheckable as reason:
                    self._skip(match, str(reason))
                    continue
                key = key_for(target, columns, values, self._database.null)
                groups[record.table, columns, key].append(_Wanted(match, values))
        for (table, columns, key), group in groups.items():
            self._look_up_group(self._tables.get(table), columns, key, group)

    def _look_up_group(
        self, target: Target, columns: tuple[str, ...], key: tuple[str, ...], wanted: list[_Wanted]
    ) -> None:
        name = target.bound.name
        rule = target.bound.rule
        if rule.key and set(rule.key) <= set(columns):
            key = tuple(rule.key)
        distinct: dict[tuple[Any, ...], int] = {}
        for one in wanted:
            distinct.setdefault(tuple(one.values), len(distinct))
        if name in self._refused:
            self._skip_all(wanted, self._refused[name])
            return
        try:
            found = look_up_each(list(distinct), lambda rows: self._find(target, columns, key, rows))
        except NotCheckable as reason:
            self._refused[name] = str(reason)
            self._skip_all(wanted, str(reason))
            return
        for one in wanted:
            looked_up = found[distinct[tuple(one.values)]]
            if looked_up.found is None:
                self._skip(one.match, looked_up.reason)
                continue
            match = one.match
            rows = looked_up.found
            exact = [row for row in rows if not row.differs]
            match.exclusive = rule.conflict == "error"
            match.rows = [row.row for row in (exact if match.exclusive else rows)]
            self._found.records += 1
            if not match.wanted:
                match.exclusive = match.exclusive and bool(exact)
            elif rule.conflict != "error":
                if any(row.differs for row in rows) or not rows:
                    self._found.unchecked[f"{name}: values under the rule '{rule.conflict}'"] += 1
                if not rows and not key:
                    # Some other unique key may have kept the record out.
                    match.rows = None
            elif key and rows and not exact:
                match.rows, match.exclusive = [rows[0].row], False
                match.note = f"{name}: {', '.join(rows[0].differs)}"
            self._facts.add_match(match)

    def _find(
        self, target: Target, columns: tuple[str, ...], key: tuple[str, ...], rows: Sequence[tuple[Any, ...]]
    ) -> list[list[Found]]:
        """The rows for each record.

        Raises:
            Refused: A value is at fault: without any, the database takes the same query.
            NotCheckable: The table is.
        """
        try:
            return self._ask(target, columns, key, rows)
        except sa.exc.OperationalError as err:
            if err.connection_invalidated:
                raise
            raise NotCheckable(_reason(err)) from None
        except (sa.exc.DBAPIError, *VALUE_ERRORS) as err:
            # The error's name: its message may quote the value.
            at_fault = type(getattr(err, "orig", None) or err).__name__
        try:
            self._ask(target, columns, key, [])
        except sa.exc.DBAPIError as err:
            raise NotCheckable(_reason(err)) from None
        raise Refused(f"a value that its column cannot hold as it is now ({at_fault})")

    def _ask(
        self, target: Target, columns: tuple[str, ...], key: tuple[str, ...], rows: Sequence[tuple[Any, ...]]
    ) -> list[list[Found]]:
        # A savepoint: whatever the database refuses here must not end the reading of the rest.
        with self._connection.begin_nested():
            return list(self._finder.find(target, columns, key, rows))

    def _skip_all(self, wanted: Sequence[_Wanted], reason: str) -> None:
        for one in wanted:
            self._skip(one.match, reason)

    def _skip(self, match: Match, reason: str) -> None:
        if match.wanted:
            self._found.unchecked[f"{match.table}: {reason}"] += 1
            self._partly.add(match.table)
        self._facts.add_match(match)

    def _even_out(self, everybody: bool) -> None:
        """Says whose row is missing where there are too few of one kind, and whose is there twice where too many."""
        for pool in self._facts.uneven_pools():
            members = self._facts.members(pool)
            if pool.found < pool.wanted:
                for handle, *_ in [one for one in members if one[3]][pool.found - pool.wanted :]:
                    self._facts.set_copies(handle, 0)
                continue
            suspects = [one for one in members if one[3] or not self._is_excused(one[1], one[2])]
            if not suspects:
                continue
            if not everybody:
                self._found.unchecked[f"{pool.table}: more equal rows than requests; others may have written them"] += 1
            elif self._facts.is_ambiguous(pool):
                self._found.unchecked[f"{pool.table}: rows that fit requests with other columns too"] += 1
            else:
                surplus = pool.found - pool.wanted
                for handle, _, _, wanted in suspects:
                    if not wanted and surplus:
                        self._facts.set_copies(handle, 1)
                        surplus -= 1
                if surplus and suspects[-1][3]:
                    self._facts.set_copies(suspects[-1][0], 1 + surplus)

    def _is_excused(self, request_id: str, digest: str) -> bool:
        """Whether a row may be there though this request did not write it: it was refused for the sake of that row."""
        told = self._facts.verdicts_of(request_id, digest)
        refused = {(Verdict.REJECTED.value, RejectCode.CONSTRAINT.value)}
        return bool(told & refused) and not any(verdict in ("written", "duplicate") for verdict, _ in told)

    def _look_for_strays(self) -> None:
        for target in self._tables.used():
            name = target.bound.name
            if name in self._partly:
                continue  # which of its rows are whose is not known
            try:
                with self._connection.begin_nested():
                    for page in self._finder.pages(target):
                        shown = dict(page)
                        for row in self._facts.unexplained(name, list(shown)):
                            self._found.add(Violation("row out of nowhere", "", f"{name}: {shown[row]}"))
            except NotCheckable as reason:
                self._found.unchecked[f"{name}: {reason}"] += 1

    # The judgement

    def _judge(self, case: Case) -> None:
        ledger = case.ledger
        self._found.written += bool(ledger and ledger.written)
        calls = [Call(told.caller, case.request_id, told.digest, 0, told.verdict) for told in self._of_callers(case)]
        calls = [Call(c.caller, c.request_id, c.content, case.counts.get(c.content, 0), c.verdict) for c in calls]
        rows = [
            Row(case.request_id, digest, position)
            for (digest, position), copies in sorted(case.copies.items())
            for _ in range(copies)
        ]
        if ledger and ledger.written and ledger.digest not in case.counts:
            # Somebody else wrote under this id. What the callers here were told is judged all the same.
            if self._question.complete:
                words = f"batch {ledger.batch} wrote records under it that nobody asked for"
                self._found.add(Violation("row out of nowhere", case.request_id, words))
            calls.append(Call("somebody else", case.request_id, ledger.digest, 1, Verdict.NOT_CONFIRMED))
            rows.append(Row(case.request_id, ledger.digest, 0))
        for violation in audit(calls, rows, [case.request_id] if ledger and ledger.written else []):
            self._found.add(violation)
        for note in case.notes:
            self._found.add(Violation("not what was asked for", case.request_id, note))
        for told in case.calls:
            if ledger and ledger.written and told.verdict is Verdict.WRITTEN and told.batch != ledger.batch:
                words = f"{told.caller} was told batch {told.batch or '(none)'}, the ledger says {ledger.batch}"
                self._found.add(Violation("told another batch", case.request_id, words))

    def _of_callers(self, case: Case) -> list[Told]:
        """The calls with their content, without what only repeats them."""
        callers = {told.caller for told in case.calls if not told.witness}
        contents = defaultdict(set)
        for told in case.calls:
            if told.digest:
                contents[told.caller].add(told.digest)
        every = set().union(*contents.values())
        calls = {}
        for told in case.calls:
            if told.witness and told.caller in callers:
                continue
            digest = told.digest
            if not digest:
                possible = contents[told.caller] or every
                if len(possible) != 1:
                    self._found.unchecked["confirmations of which the request is not known"] += 1
                    continue
                digest = next(iter(possible))
            if digest == UNREADABLE:
                self._found.unchecked["requests that cannot be read"] += 1
            calls[told.caller, digest, told.verdict] = Told(told.caller, told.request_id, digest, told.verdict)
        return list(calls.values())

    def _judge_order(self) -> None:
        for shard, spans in self._facts.queues(self._question.batcher):
            for violation in out_of_order(spans, f"of one key, in shard {shard}"):
                self._found.add(violation)
        self._found.unchecked.update(self._facts.shards_without_order())
