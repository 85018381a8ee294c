"""What every write of a scene changes besides its facts: one hot row, the row of its key, a row of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from temporal_batching.audit.rules import POSITIVE
from tests.faults.auditing import TABLE, Asked
from tests.support.databases import TestDatabase

HOT, STATES, OWN = "hot", "states", "own"
TABLES = (
    f"{TABLE}; {HOT}: conflict=add key=id add=total,n; {STATES}: conflict=update key=id operations=insert,delete; "
    f"{OWN}: key=id operations=insert,update,delete"
)
"""The rules of a scene's tables, as the settings take them."""


def create_changing_tables(database: TestDatabase) -> None:
    database.execute(
        f"CREATE TABLE {HOT} (id integer PRIMARY KEY, total bigint NOT NULL, n bigint NOT NULL)"
        f";;CREATE TABLE {STATES} (id varchar(60) PRIMARY KEY, content text NOT NULL)"
        f";;CREATE TABLE {OWN} (id varchar(100) PRIMARY KEY, content text NOT NULL)"
    )


def change_of(content: str, key: str, request_id: str, *, returning: bool) -> list[list[Any]]:
    """The records that a write has besides its facts, as `Write` has them."""
    number = _number(content)
    added: list[Any] = [HOT, {"id": 1, "total": number % 7 + 1, "n": 1}, ["total"] if returning else []]
    if number % 4 < 2:
        return [added]
    if number % 4 == 2:
        deletes = number % 8 == 2
        values = {"id": key} if deletes else {"id": key, "content": content}
        return [added, [STATES, values, [], {}, "delete" if deletes else "insert"]]
    own = [
        [OWN, {"id": request_id, "content": "new"}],
        [OWN, {"id": request_id, "content": content}, [], {}, "update"],
    ]
    return [*own, [OWN, {"id": request_id}, [], {}, "delete"]] if number % 8 == 7 else own


def _number(content: str) -> int:
    return int(content.split()[1].rstrip("x"))


def assert_rows_were_changed_once(database: TestDatabase, asked: Sequence[Asked]) -> None:
    """The hot row is the sum of what was written, each once; the others are what the last write of their key left."""
    # The facts are in the order in which they were applied, which for one key is that of the changes.
    applied = dict.fromkeys(
        request_id for (request_id,) in database.rows(f"SELECT request_id FROM {TABLE} ORDER BY number")
    )
    by_id = {one.request_id: one for one in asked}
    total, count = 0, 0
    states: dict[str, str] = {}
    own: dict[str, str] = {}
    for request_id in applied:
        one = by_id[request_id]
        for table, values, *rest in change_of(one.content, one.key, request_id, returning=False) if one.key else ():
            deletes = len(rest) > 2 and rest[2] == "delete"
            if table == HOT:
                total, count = total + values["total"], count + 1
            else:
                rows = states if table == STATES else own
                if deletes:
                    rows.pop(values["id"], None)
                else:
                    rows[values["id"]] = values["content"]
    assert database.rows(f"SELECT total, n FROM {HOT}") == ([(total, count)] if count else [])
    assert dict(database.rows(f"SELECT id, content FROM {STATES}")) == states
    assert dict(database.rows(f"SELECT id, content FROM {OWN}")) == own
    _assert_totals_grow(database, asked, total)


def _assert_totals_grow(database: TestDatabase, asked: Sequence[Asked], total: int) -> None:
    """Each caller received a total that the row had: at least what it added, at most the last one."""
    query = "SELECT request_id, returned FROM batching_ledger WHERE returned IS NOT NULL"
    kept = {request_id: json.loads(rows) for request_id, rows in database.rows(query)}
    for one in asked:
        totals = [row["total"] for row in kept.get(one.request_id, ()) if "total" in row]
        if one.verdict in POSITIVE and totals:
            assert one.result is not None
            assert one.result.returned == kept[one.request_id]
            assert _number(one.content) % 7 + 1 <= totals[0] <= total
