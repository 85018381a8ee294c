"""Rules of tables as settings: every part of a rule, by file, flag and variable, and what is said of a wrong one."""

from __future__ import annotations

import json
import tomllib
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_batching import TableRule
from temporal_batching.contract import OPERATIONS
from temporal_batching.settings import SettingsError, load, variable
from temporal_batching.table_settings import parse_tables, tables_as_json

WHOLE: dict[str, dict[str, Any]] = {
    "conflict": {"conflict": "ignore"},
    "key": {"conflict": "update", "key": ["id", "region"]},
    "update": {"conflict": "update", "key": ["id"], "update": ["amount"]},
    "add": {"conflict": "add", "key": ["id"], "add": ["amount", "count"]},
    "operations": {"conflict": "update", "key": ["id"], "operations": ["insert", "delete"]},
}
"""For each part of a rule a rule that has it."""


def as_toml(rule: dict[str, Any]) -> str:
    return "[tables.orders]\n" + "".join(f"{part} = {json.dumps(value)}\n" for part, value in rule.items())


def as_flag(rule: dict[str, Any]) -> str:
    parts = {part: value if isinstance(value, str) else ",".join(value) for part, value in rule.items()}
    return "orders: " + " ".join(f"{part}={value}" for part, value in parts.items())


def test_every_part_of_a_rule_can_be_set() -> None:
    """A part that is new in `TableRule` needs a rule above that has it."""
    assert set(WHOLE) == {field.name for field in fields(TableRule)}


@pytest.mark.parametrize("part", WHOLE)
def test_a_part_of_a_rule_is_the_same_by_file_flag_and_variable(part: str) -> None:
    rule = WHOLE[part]
    wanted = {"orders": TableRule(**rule)}
    assert getattr(wanted["orders"], part) == rule[part]
    file = tomllib.loads(as_toml(rule))["tables"]
    assert parse_tables(file) == parse_tables([as_flag(rule)]) == parse_tables(json.dumps(file)) == wanted
    assert parse_tables(tables_as_json(wanted)) == wanted


def test_tables_without_rules_are_a_list_or_names() -> None:
    wanted = {"orders": TableRule(), "sales.entries": TableRule()}
    forms: list[Any] = [
        ["orders", "sales.entries"], "orders, sales.entries", "orders;sales.entries;", '["orders", "sales.entries"]',
        {"orders": {}, "sales.entries": {}}, '{"orders": {}, "sales.entries": {}}', wanted,
    ]  # fmt: skip
    for form in forms:
        assert parse_tables(form) == wanted
    assert parse_tables(None) is None


def test_a_flag_is_read_as_people_write_it() -> None:
    wanted = TableRule(conflict="update", key=["id", "region"])
    for text in (
        "a:conflict=update key=id,region",
        "a : conflict = update  key = id, region ",
        " a: key=id,region conflict=update",
    ):
        assert parse_tables(text) == {"a": wanted}
    ignore = TableRule(conflict="ignore")
    assert parse_tables("a, b: conflict=ignore; c") == {"a": ignore, "b": ignore, "c": TableRule()}


_names = st.text(st.characters(categories=["L", "N"], include_characters="_."), min_size=1, max_size=8)
_columns = st.lists(_names, min_size=1, max_size=3)
_rules = st.one_of(
    st.just(TableRule()),
    st.builds(lambda key: TableRule(conflict="ignore", key=key), st.lists(_names, max_size=3)),
    st.builds(lambda key, update: TableRule(conflict="update", key=key, update=update), _columns, st.none() | _columns),
    st.builds(lambda key: TableRule(conflict="update", key=key, update=[]), _columns),
    st.builds(lambda key, add: TableRule(conflict="add", key=[f"{key}1"], add=add), _names, st.just(["amount"])),
    st.builds(
        lambda key, operations: TableRule(key=key, operations={*operations, "delete"}),
        _columns,
        st.lists(st.sampled_from(OPERATIONS), max_size=3),
    ),
)


@given(st.dictionaries(_names, _rules, min_size=1, max_size=4))
def test_what_a_child_process_is_given_reads_back(rules: dict[str, TableRule]) -> None:
    read = parse_tables(tables_as_json(rules))
    assert {name: _compared(rule) for name, rule in (read or {}).items()} == {
        name: _compared(rule) for name, rule in rules.items()
    }


def _compared(rule: TableRule) -> list[Any]:
    """A tuple and a list of the same columns are the same rule."""
    values = [getattr(rule, field.name) for field in fields(rule)]
    return [value if value is None or isinstance(value, str) else sorted(value) for value in values]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"orders": {"conflict": "upsert"}}, "orders: conflict 'upsert': one of error, ignore, update, add"),
        ({"orders": {"key": ["id"], "operations": ["upsert"]}}, "operation 'upsert': one of insert, update, delete"),
        ({"orders": {"operations": ["insert", "delete"]}}, "orders: operations update and delete need a key"),
        ({"orders": {"conflict": 5}}, "orders: conflict 5: one of "),
        (
            {"orders": {"confict": "update"}},
            "orders.confict: did you mean conflict? the parts of a rule are ",
        ),
        ({"orders": {"key": 5}}, "orders.key 5: a list of names"),
        ({"orders": {"key": [1]}}, "orders.key [1]: a list of names"),
        ({"orders": {"key": "a,,b"}}, "orders.key ['a', '', 'b']: a list of names"),
        ({"orders": "update"}, "orders 'update': the parts of a rule are conflict, "),
        ({"sales": {"orders": {"conflict": "error"}}}, 'quoted, as in [tables."sales.orders"]'),
        ("orders: conflict=update", "orders: conflict 'update' needs a key"),
        ("orders conflict=update", "'orders conflict=update': TABLE, or 'TABLE: conflict=update key=COLUMN,...'"),
        ("orders: update", "'orders: update': TABLE, or "),
        ("orders: key=a key=b", "'orders: key=a key=b': TABLE, or "),
        ("orders=update:id", "'orders=update:id': TABLE, or "),
        (": conflict=error", "': conflict=error': TABLE, or "),
        (["orders", "orders: conflict=ignore"], "orders: named twice"),
        (" ; ", "no table: TABLE, or "),
        ([], "no table: TABLE, or "),
        ({}, "no table: TABLE, or "),
        ("{orders}", "not JSON (Expecting property name"),
        (5, "5: a list of names, or a table of rules"),
        ([{"orders": {}}], "a list of names, or a table of rules"),
    ],
)
def test_a_wrong_rule_is_named_with_what_is_allowed(value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        parse_tables(value)
    assert said in str(error.value)


def test_an_error_says_who_said_it(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    what = "orders: conflict 'upsert': one of error, ignore, update, add"
    with pytest.raises(SettingsError) as by_flag:
        load({"tables": ["orders: conflict=upsert"]})
    path = tmp_path / "b.toml"
    path.write_text('[tables.orders]\nconflict = "upsert"\n')
    with pytest.raises(SettingsError) as by_file:
        load(config=path)
    monkeypatch.setenv(variable("tables"), "orders: conflict=upsert")
    with pytest.raises(SettingsError) as by_variable:
        load()
    for error, writer in ((by_flag, "--table"), (by_file, f"tables in {path}"), (by_variable, "BATCHING_TABLES")):
        assert str(error.value).startswith(f"{writer}: {what}")


def test_a_flag_replaces_the_tables_of_the_file(tmp_path: Any) -> None:
    path = tmp_path / "b.toml"
    path.write_text("[tables.orders]\n")
    assert load(config=path).tables == {"orders": TableRule()}
    assert load({"tables": ["entries"]}, config=path).tables == {"entries": TableRule()}
    assert load({"tables": []}, config=path).tables == {"orders": TableRule()}, "no flag was given"
