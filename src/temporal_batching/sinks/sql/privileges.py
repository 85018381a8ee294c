"""Which privileges on a table its rule needs."""

from __future__ import annotations

from temporal_batching.contract import INSERT
from temporal_batching.sinks.rules import TableRule

SELECT, INSERT_ROWS, UPDATE, DELETE = PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE")


def needed_privileges(rule: TableRule, *, ignores_by_update: bool = False) -> list[str]:
    """The privileges that writing by a rule needs, as docs/how-to/connect-a-database.md lists them.

    What callers ask to have returned needs ``SELECT`` as well; no rule tells whether they do.

    Args:
        rule: The table's rule.
        ignores_by_update: Whether the database ignores a conflict by an update that changes nothing.
    """
    needed = set()
    if ignores_by_update and rule.conflict == "ignore":
        needed |= {SELECT, UPDATE}
    if INSERT in rule.operations:
        needed.add(INSERT_ROWS)
    if rule.key:  # the rows of a key are looked for
        needed.add(SELECT)
    if rule.conflict in ("update", "add") or "update" in rule.operations:
        needed.add(UPDATE)
    if "delete" in rule.operations:
        needed.add(DELETE)
    return [privilege for privilege in PRIVILEGES if privilege in needed]
