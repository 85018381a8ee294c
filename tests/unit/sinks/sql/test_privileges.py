"""The privileges that a rule needs are those that docs/how-to/connect-a-database.md lists."""

from __future__ import annotations

import pytest

from temporal_batching import TableRule
from temporal_batching.sinks.sql.privileges import needed_privileges


@pytest.mark.parametrize(
    ("rule", "needed", "on_mariadb"),
    [
        (TableRule(), "INSERT", "INSERT"),
        (TableRule(conflict="ignore"), "INSERT", "SELECT INSERT UPDATE"),
        (TableRule(conflict="ignore", key=["k"]), "SELECT INSERT", "SELECT INSERT UPDATE"),
        (TableRule(conflict="update", key=["k"]), "SELECT INSERT UPDATE", "SELECT INSERT UPDATE"),
        (TableRule(conflict="add", key=["k"], add=["n"]), "SELECT INSERT UPDATE", "SELECT INSERT UPDATE"),
        (TableRule(key=["k"], operations={"update"}), "SELECT UPDATE", "SELECT UPDATE"),
        (TableRule(key=["k"], operations={"insert", "delete"}), "SELECT INSERT DELETE", "SELECT INSERT DELETE"),
    ],
)
def test_a_rule_needs_no_more_than_what_it_writes(rule: TableRule, needed: str, on_mariadb: str) -> None:
    assert " ".join(needed_privileges(rule)) == needed
    assert " ".join(needed_privileges(rule, ignores_by_update=True)) == on_mariadb
