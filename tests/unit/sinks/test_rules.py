"""A rule that cannot mean anything is refused with words that say what is allowed."""

from __future__ import annotations

from typing import Any

import pytest

from temporal_batching import SinkConfigurationError, TableRule
from temporal_batching.contract import Operation
from temporal_batching.sinks.rules import operation_fault

ALL: set[Operation] = {"insert", "update", "delete"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"conflict": "upsert"}, "one of error, ignore, update, add"),
        ({"conflict": "update"}, "needs a key"),
        ({"conflict": "add", "add": ["n"]}, "needs a key"),
        ({"conflict": "add", "key": ["id"]}, "needs add, the columns"),
        ({"conflict": "add", "key": "id", "add": ["n"]}, "a sequence of column names"),
        ({"conflict": "add", "key": ["id"], "add": "n"}, "a sequence of column names"),
        ({"conflict": "add", "key": ["id"], "add": ["id"]}, "'id' is in add and in the key"),
        ({"conflict": "add", "key": ["id"], "add": ["n"], "update": ["n"]}, "'n' is in add and in update"),
        ({"add": ["n"]}, "add has no meaning with conflict 'error'"),
        ({"conflict": "update", "key": ["id"], "add": ["n"]}, "add has no meaning with conflict 'update'"),
        ({"update": ["n"]}, "update has no meaning with conflict 'error'"),
        ({"conflict": "ignore", "update": ["n"]}, "update has no meaning with conflict 'ignore'"),
        ({"key": ["id"]}, "key has no meaning"),
        ({"operations": ALL}, "update and delete need a key"),
        ({"operations": ["update"]}, "update and delete need a key"),
        ({"operations": []}, "operations are empty"),
        ({"operations": "insert"}, "a sequence of operations"),
        ({"key": ["id"], "operations": ["insert", "upsert"]}, "one of insert, update, delete"),
        ({"conflict": "ignore", "key": ["id"], "operations": ["delete"]}, "without the operation insert"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SinkConfigurationError, match=words):
        TableRule(**options)


@pytest.mark.parametrize(
    "rule",
    [
        TableRule(),
        TableRule(conflict="add", key=["id"], add=["n"]),
        TableRule(conflict="add", key=["id"], add=["n"], update=["seen"]),
        TableRule(key=["id"], operations=["delete"]),
        TableRule(conflict="update", key=["id"], operations=ALL),
    ],
)
def test_a_rule_that_makes_sense_is_taken(rule: TableRule) -> None:
    assert rule.operations


@pytest.mark.parametrize(
    ("rule", "operation", "columns", "words"),
    [
        (TableRule(), "update", ["id", "n"], "does not allow the operation update; it allows insert"),
        (TableRule(key=["id"], operations={"delete"}), "insert", ["id"], "does not allow the operation insert"),
        (TableRule(key=["a", "b"], operations=ALL), "update", ["a", "n"], r"its key \(a, b\): b is missing"),
        (TableRule(key=["a"], operations=ALL), "update", ["a"], "nothing to set"),
        (TableRule(key=["a"], operations=ALL), "delete", ["a", "n"], "no other: leave out n"),
        (TableRule(key=["a", "b"], operations=ALL), "delete", ["n"], "a, b is missing"),
        (TableRule(conflict="add", key=["a"], add=["n"]), "insert", ["n"], r"an addition to t needs .* \(a\)"),
    ],
)
def test_a_record_that_does_not_fit_its_rule_is_told_why(
    rule: TableRule, operation: Operation, columns: list[str], words: str
) -> None:
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(operation_fault("t", rule, operation, columns))


@pytest.mark.parametrize(
    ("rule", "operation", "columns"),
    [
        (TableRule(), "insert", []),
        (TableRule(conflict="update", key=["a"]), "insert", ["n"]),
        (TableRule(conflict="add", key=["a"], add=["n"]), "insert", ["a", "n"]),
        (TableRule(key=["a"], operations=ALL), "update", ["n", "a"]),
        (TableRule(key=["a"], operations=ALL), "delete", ["a"]),
    ],
)
def test_a_record_that_fits_its_rule_has_no_fault(rule: TableRule, operation: Operation, columns: list[str]) -> None:
    assert operation_fault("t", rule, operation, columns) is None
