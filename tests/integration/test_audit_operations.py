"""An audit of rows that several records insert, update, add to and delete: the last of them decides."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from temporal_batching import Record, Returned, TableRule
from temporal_batching.audit.check import AuditScope, check_database
from temporal_batching.audit.facts import CallFact, KeyArrival, RequestContent, ShardRun
from temporal_batching.audit.report import Findings
from temporal_batching.audit.rules import CallResult
from temporal_batching.audit.store import FactStore
from temporal_batching.sinks.ledger import digest, returned_mark
from tests.support.databases import TestDatabase

CHANGING = TableRule(key=["id"], operations=["insert", "update", "delete"])
RULES = {
    "orders": CHANGING,
    "totals": TableRule(conflict="add", key=["id"], add=["amount", "n"], update=["state"]),
    "latest": TableRule(conflict="update", key=["id"], update=["state"]),
    "parts": TableRule(key=["number"], operations=["insert", "delete"]),
}
NUMBER = {
    "sqlite": "integer PRIMARY KEY",
    "postgresql": "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    "mariadb": "bigint AUTO_INCREMENT PRIMARY KEY",
}
COLUMNS = "(id varchar(40) PRIMARY KEY, state text, amount numeric(12, 2) NOT NULL DEFAULT 0, n integer)"


@dataclass(frozen=True)
class Asked:
    """A request, when it was sent and confirmed, and under which key."""

    name: str
    records: list[Record]
    sent: float = 0.0
    ended: float = 0.0
    key: str = ""
    caller: str = ""
    result: CallResult = CallResult.WRITTEN
    returned: list[dict[str, Any] | None] | None = None


def insert(table: str, id: str, **values: Any) -> Record:
    return Record(table, {"id": id, **values})


def update(table: str, id: str, **values: Any) -> Record:
    return Record(table, {"id": id, **values}, operation="update")


def delete(table: str, id: str) -> Record:
    return Record(table, {"id": id}, operation="delete")


class Deployment:
    """A ledger and rows as a batcher would have left them, and what its callers' histories say."""

    def __init__(self, database: TestDatabase) -> None:
        self.database = database
        for table in ("orders", "totals", "latest"):
            database.execute(f"CREATE TABLE {table} {COLUMNS}")
        database.execute(f"CREATE TABLE parts (number {NUMBER[database.dialect]}, order_id varchar(40), n integer)")
        sink = database.sink()
        database.run_ddl(sink.ledger_ddl())

    def audited(self, *asked: Asked, complete: bool = True, outside: bool = False, rules: Any = RULES) -> Findings:
        facts, at = FactStore(), datetime(2026, 1, 31, tzinfo=UTC)
        self.database.execute("DELETE FROM batching_ledger WHERE request_id <> ''")
        try:
            for event, one in enumerate(asked):
                mark = digest(one.records)
                facts.add_content(RequestContent(one.name, mark, one.records))
                if one.result is CallResult.WRITTEN:
                    self._enter(one.name, mark, at, one.returned)
                call = CallFact(
                    one.caller or f"w{event}", one.name, mark, one.result, batch_id="main-0.x/1",
                    returned=returned_mark(one.returned), sent=one.sent, ended=one.ended,
                )  # fmt: skip
                facts.add_call(call, judged=True)
                if one.key:
                    facts.add_arrival(KeyArrival(0, "chain-x", 1.0, event, one.key, one.name))
            facts.add_shard_run(ShardRun(0, "chain-x", first=True, overlapping=False))
            facts.finish_collecting()
            if outside:
                self._enter("somebody else's", "digest", at, None)
            return check_database(
                facts, AuditScope(url=self.database.url, batcher="main", tables=rules, complete=complete)
            )
        finally:
            facts.close()

    def _enter(self, name: str, mark: str, at: datetime, returned: Any) -> None:
        # SQLite's driver warns of a datetime from Python 3.12 on; MariaDB's takes one without a time zone.
        times = {"postgresql": at, "mariadb": at.replace(tzinfo=None), "sqlite": at.isoformat(" ")}
        self.database.execute(
            "INSERT INTO batching_ledger VALUES (:name, :mark, 'main-0.x/1', 'written', :at, :returned)",
            name=name.encode() if self.database.dialect == "mariadb" else name,
            mark=mark,
            at=times[self.database.dialect],
            returned=None if returned is None else json.dumps(returned),
        )


@pytest.fixture
def deployment(database: TestDatabase) -> Deployment:
    return Deployment(database)


def found(findings: Findings) -> list[tuple[str, str, str]]:
    return [(str(one.rule), one.request_id, one.detail) for one in findings.violations]


LIFE = [
    Asked("made", [insert("orders", "o", state="new", amount="9.50")], 1, 2, caller="w"),
    Asked("paid", [update("orders", "o", state="paid")], 3, 4, caller="w"),
    Asked("gone", [delete("orders", "o")], 5, 6, caller="w"),
]
"""One caller's order, each step after the confirmation of the one before."""


def test_the_last_operation_of_a_key_decides(deployment: Deployment) -> None:
    execute = deployment.database.execute
    execute("INSERT INTO orders (id, state, amount) VALUES ('o', 'paid', 9.5)")
    assert found(deployment.audited(*LIFE[:2])) == []
    execute("UPDATE orders SET state = 'new'")
    assert found(deployment.audited(*LIFE[:2])) == [("other values", "paid", "orders: state")]
    execute("UPDATE orders SET state = 'paid', amount = 9")
    assert found(deployment.audited(*LIFE[:2])) == [("other values", "made", "orders: amount")]
    assert found(deployment.audited(*LIFE)) == [
        ("deleted but present", "gone", "orders: it deleted the row last, and the row is there")
    ]
    execute("DELETE FROM orders")
    findings = deployment.audited(*LIFE)
    assert (found(findings), dict(findings.unchecked), findings.records) == ([], {}, 3)
    assert [rule for rule, *_ in found(deployment.audited(*LIFE[:2]))] == ["ledger without rows"]


def test_operations_of_one_request_are_in_their_order(deployment: Deployment) -> None:
    there = Asked("r", [insert("orders", "o", state="a"), delete("orders", "o"), insert("orders", "o", state="b")])
    deployment.database.execute("INSERT INTO orders (id, state) VALUES ('o', 'b')")
    assert found(deployment.audited(there)) == []
    gone = replace(there, records=there.records[:2])
    assert [rule for rule, *_ in found(deployment.audited(gone))] == ["deleted but present"]


def test_requests_without_order_between_them_are_judged_fairly(deployment: Deployment) -> None:
    """Either may have been the last. With a key, or after a confirmation, it is known which."""
    database = deployment.database
    database.execute("INSERT INTO orders (id, state, amount) VALUES ('o', 'a', 0)")
    new = Asked("new", [insert("orders", "o", state="new")], 1, 2)
    a, b = (Asked(name, [update("orders", "o", state=name)], 4, 9) for name in "ab")
    assert found(deployment.audited(new, a, b)) == []
    database.execute("UPDATE orders SET state = 'b'")
    assert found(deployment.audited(new, a, b)) == []
    assert found(deployment.audited(new, replace(b, key="k"), replace(a, key="k"))) == [
        ("other values", "a", "orders: state")
    ]
    assert found(deployment.audited(new, replace(b, ended=5), replace(a, sent=5.5))) == [], "clocks may differ"
    assert found(deployment.audited(new, replace(b, ended=5), replace(a, sent=6.5))) != []
    database.execute("UPDATE orders SET state = 'c'")
    assert [rule for rule, *_ in found(deployment.audited(new, a, b))] == ["other values"]
    maybe = Asked("gone", [delete("orders", "o")], 4, 9)
    assert [rule for rule, *_ in found(deployment.audited(new, maybe))] == ["deleted but present"]
    assert found(deployment.audited(replace(new, ended=9), maybe)) == []
    database.execute("DELETE FROM orders")
    assert found(deployment.audited(new, a, maybe)) == []


def test_sums_are_those_of_what_was_added_exactly_once(deployment: Deployment) -> None:
    execute = deployment.database.execute
    added = [
        Asked(f"r{n}", [insert("totals", "t", amount="0.10", n=1, state="s")], n, n + 9) for n in range(10)
    ]  # fmt: skip
    added.append(Asked("no", [insert("totals", "t", amount="5", n=1, state="no")], 5, 9, result=CallResult.REJECTED))
    execute("INSERT INTO totals VALUES ('t', 's', 1, 10)")
    findings = deployment.audited(*added)
    assert (found(findings), dict(findings.unchecked)) == ([], {})
    for amount, n, wrong in (("1.1", 10, "amount"), ("1", 11, "n"), ("0.9", 10, "amount")):
        execute(f"UPDATE totals SET amount = {amount}, n = {n}")
        ((rule, _, detail),) = found(deployment.audited(*added))
        assert (rule, detail) == ("other sum", f"totals: {wrong} is not the sum of what 10 records added")
    findings = deployment.audited(*added, complete=False)
    assert found(findings) == [], "the row may have been there before"
    assert dict(findings.unchecked) == {
        "totals: sums of amount can only be checked by --complete": 1,
        "totals: sums of n can only be checked by --complete": 1,
    }
    execute("DELETE FROM totals")
    assert [rule for rule, *_ in found(deployment.audited(*added))] == ["ledger without rows"]


def test_a_conflict_that_overwrites_is_judged_by_the_columns_that_it_overwrites(deployment: Deployment) -> None:
    execute = deployment.database.execute
    writes = [
        Asked(name, [insert("latest", "x", state=name, n=n)], n, n, caller="w") for n, name in enumerate("abc", 1)
    ]
    execute("INSERT INTO latest VALUES ('x', 'c', 0, 1)")
    assert found(deployment.audited(*writes)) == []
    execute("UPDATE latest SET state = 'b'")
    assert found(deployment.audited(*writes)) == [("other values", "c", "latest: state")]


def test_what_others_may_have_changed_is_not_judged(deployment: Deployment) -> None:
    findings = deployment.audited(*LIFE[:2], complete=False, outside=True)
    assert found(findings) == [], "somebody else may have deleted it"
    deployment.database.execute("INSERT INTO orders (id, state) VALUES ('o', 'whatever')")
    findings = deployment.audited(*LIFE, complete=False, outside=True)
    assert found(findings) == []
    assert findings.unchecked["orders: values of rows that other requests may have changed"] == 1


def test_generated_keys_and_references_are_known_from_what_was_returned(deployment: Deployment) -> None:
    made = Asked(
        "r", [insert("orders", "o"), Record("parts", {"order_id": Returned(0, "id"), "n": 1})],
        1, 2, caller="w", returned=[{"id": "o"}, {"number": 7}],
    )  # fmt: skip
    execute = deployment.database.execute
    execute("INSERT INTO orders (id) VALUES ('o')")
    overriding = " OVERRIDING SYSTEM VALUE" if deployment.database.dialect == "postgresql" else ""
    execute(f"INSERT INTO parts{overriding} VALUES (7, 'o', 1)")
    findings = deployment.audited(made)
    assert (found(findings), dict(findings.unchecked)) == ([], {})
    execute("UPDATE parts SET order_id = 'p'")
    assert found(deployment.audited(made)) == [("other values", "r", "parts: order_id")]
    execute("DELETE FROM parts")
    gone = Asked("gone", [Record("parts", {"number": 7}, operation="delete")], 3, 4, caller="w")
    assert found(deployment.audited(made, gone)) == []
    assert [rule for rule, *_ in found(deployment.audited(made))] == ["ledger without rows"]
    unknown = replace(made, returned=None)
    findings = deployment.audited(unknown)
    assert (found(findings), findings.unchecked["parts: records without the key's columns"]) == ([], 1)


def test_a_table_whose_rule_is_not_given_is_not_judged_by_another_one(deployment: Deployment) -> None:
    findings = deployment.audited(*LIFE, rules={})
    assert found(findings) == []
    assert dict(findings.unchecked) == {
        "orders: its rows were updated or deleted, and its rule here does not allow that": 3
    }
    refused = replace(LIFE[2], result=CallResult.REJECTED)
    deployment.database.execute("INSERT INTO orders (id, state, amount) VALUES ('o', 'new', 9.5)")
    findings = deployment.audited(LIFE[0], refused, rules={})
    assert (found(findings), dict(findings.unchecked)) == ([], {})


def test_keys_that_differ_only_in_spelling_are_not_mistaken_for_others(deployment: Deployment) -> None:
    """A collation may take them for one, or not."""
    made, gone = Asked("r", [insert("orders", "Ä", n=1)], 1, 2), Asked("s", [delete("orders", "ä")], 5, 6)
    findings = deployment.audited(made, gone)
    assert found(findings) == []
    assert dict(findings.unchecked) == {"orders: rows whose keys differ only in spelling": 1}
