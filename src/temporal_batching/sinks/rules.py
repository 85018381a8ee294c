"""`TableRule`: which operations a table takes, and what happens when a record conflicts with an existing row."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from temporal_batching.contract import INSERT, OPERATIONS, Operation
from temporal_batching.errors import SinkConfigurationError

Conflict = Literal["error", "ignore", "update", "add"]
CONFLICTS: tuple[Conflict, ...] = get_args(Conflict)

INSERTS_ONLY: tuple[Operation, ...] = (INSERT,)
"""What a table allows unless its rule says otherwise."""


@dataclass(frozen=True, kw_only=True)
class TableRule:
    """Which operations a table takes, and what happens when an inserted record conflicts with an existing row.

    Example:
        ```python
        from temporal_batching import SqlSink, TableRule

        sink = SqlSink(
            "sqlite:///app.db",
            tables={
                "entries": TableRule(),
                "tags": TableRule(conflict="ignore", key=["name"]),
                "profiles": TableRule(conflict="update", key=["account"], update=["email"]),
                "balances": TableRule(conflict="add", key=["account"], add=["amount"]),
                "orders": TableRule(key=["id"], operations={"insert", "update", "delete"}),
            },
        )
        ```

    Attributes:
        conflict: ``error`` rejects the request; ``ignore`` keeps the existing row and counts the record as written;
            ``update`` overwrites the row's columns with those of the record; ``add`` adds the record's numbers to those
            of the row.
        key: The columns that identify a row; a unique index or the primary key must cover exactly these columns.
            ``update``, ``add`` and the operations ``update`` and ``delete`` require it. With ``ignore`` and without a
            key, any unique index counts.
        update: The columns that a conflict overwrites if the record has them. With ``update`` by default all except the
            key, with ``add`` by default none. It does not limit the operation ``update``.
        add: The numeric columns to which ``add`` adds. A null in the row counts as zero.
        operations: The operations that the table allows, of ``insert``, ``update`` and ``delete``. A record with
            another operation is rejected.
    """

    conflict: Conflict = "error"
    key: Sequence[str] = ()
    update: Sequence[str] | None = None
    add: Sequence[str] = ()
    operations: Collection[Operation] = INSERTS_ONLY

    def __post_init__(self) -> None:
        if self.conflict not in CONFLICTS:
            raise SinkConfigurationError(f"conflict {self.conflict!r}: one of {', '.join(CONFLICTS)}")
        for name in ("key", "update", "add", "operations"):
            if isinstance(getattr(self, name), str):
                what = "operations" if name == "operations" else "column names"
                raise SinkConfigurationError(f"{name} {getattr(self, name)!r}: a sequence of {what}")
        self._check_operations()
        if self.conflict in ("update", "add") and not self.key:
            raise SinkConfigurationError(f"conflict {self.conflict!r} needs a key, the columns that identify a row")
        if self.update and self.conflict not in ("update", "add"):
            raise SinkConfigurationError(f"update has no meaning with conflict {self.conflict!r}")
        if self.key and self.conflict == "error" and not self.changes_rows:
            raise SinkConfigurationError("key has no meaning with conflict 'error' and without updates and deletes")
        self._check_add()

    def _check_operations(self) -> None:
        for operation in self.operations:
            if operation not in OPERATIONS:
                raise SinkConfigurationError(f"operation {operation!r}: one of {', '.join(OPERATIONS)}")
        if not self.operations:
            raise SinkConfigurationError(f"operations are empty: at least one of {', '.join(OPERATIONS)}")
        if self.changes_rows and not self.key:
            raise SinkConfigurationError("operations update and delete need a key, the columns that identify a row")
        if self.conflict != "error" and INSERT not in self.operations:
            raise SinkConfigurationError(f"conflict {self.conflict!r} has no meaning without the operation insert")

    def _check_add(self) -> None:
        if self.conflict != "add":
            if self.add:
                raise SinkConfigurationError(f"add has no meaning with conflict {self.conflict!r}")
            return
        if not self.add:
            raise SinkConfigurationError("conflict 'add' needs add, the columns to which it adds")
        for name, others in (("the key", self.key), ("update", self.update or ())):
            both = [column for column in self.add if column in others]
            if both:
                raise SinkConfigurationError(f"column {both[0]!r} is in add and in {name}: one of them")

    @property
    def changes_rows(self) -> bool:
        """Whether it allows to update or to delete rows by their key."""
        return "update" in self.operations or "delete" in self.operations


def operation_fault(table: str, rule: TableRule, operation: Operation, columns: Iterable[str]) -> str | None:
    """Why a record does not fit the rule of its table, or None.

    Args:
        table: The table's name.
        rule: The table's rule.
        operation: The record's operation.
        columns: The columns of its values.
    """
    if operation not in rule.operations:
        allowed = ", ".join(known for known in OPERATIONS if known in rule.operations)
        return f"{table} does not allow the operation {operation}; it allows {allowed}"
    if operation == INSERT and rule.conflict != "add":
        return None
    what = f"an addition to {table}" if operation == INSERT else f"the {operation} of a row of {table}"
    key = ", ".join(rule.key)
    columns = list(columns)
    missing = [name for name in rule.key if name not in columns]
    if missing:
        return f"{what} needs all columns of its key ({key}): {', '.join(missing)} is missing"
    others = [name for name in columns if name not in rule.key]
    if operation == INSERT and not set(rule.add).intersection(columns):
        return f"{what} has nothing to add: none of {', '.join(rule.add)}"
    if operation == "update" and not others:
        return f"{what} has nothing to set: only the columns of its key ({key})"
    if operation == "delete" and others:
        return f"{what} takes the columns of its key ({key}) and no other: leave out {', '.join(others)}"
    return None
