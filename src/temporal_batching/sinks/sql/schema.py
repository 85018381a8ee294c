"""The database's tables: which of them may be written to, and how a record's values are bound to their columns.

Statements contain only names that were read from the database's catalogs; names in requests are looked up, never
inserted into a statement. A table is read when it is first needed, and then kept. If a name or a value does not fit,
the sink checks whether the schema has changed, and reads it again if so. So a migration needs no restart.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa

from temporal_batching.contract import Record, RejectCode
from temporal_batching.errors import SinkConfigurationError
from temporal_batching.sinks.sql.values import BadValue, Reader, show

MAX_NAMES_SHOWN = 12
MAX_PLANS = 256
"""The sets of columns whose plans one table keeps. Callers have a few; the limit bounds the memory."""


@dataclass(frozen=True, kw_only=True)
class TableRule:
    """What happens when a record conflicts with an existing row.

    Example:
        ```python
        from temporal_batching import SqlSink, TableRule

        sink = SqlSink(
            "sqlite:///app.db",
            tables={
                "entries": TableRule(),
                "tags": TableRule(conflict="ignore", key=["name"]),
                "balances": TableRule(conflict="update", key=["account"], update=["amount"]),
            },
        )
        ```

    Attributes:
        conflict: ``error`` rejects the request; ``ignore`` keeps the existing row and counts the record as written;
            ``update`` overwrites the row's columns with those of the record.
        key: The columns that identify a row; a unique index or the primary key must cover exactly these columns.
            ``update`` requires it. With ``ignore`` and without a key, any unique index counts.
        update: The columns that ``update`` overwrites if the record has them; by default all except the key.
    """

    conflict: Literal["error", "ignore", "update"] = "error"
    key: Sequence[str] = ()
    update: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.conflict not in ("error", "ignore", "update"):
            raise SinkConfigurationError(f"conflict {self.conflict!r}: one of error, ignore, update")
        for name in ("key", "update"):
            if isinstance(getattr(self, name), str):
                raise SinkConfigurationError(f"{name} {getattr(self, name)!r}: a sequence of column names")
        if self.conflict == "update" and not self.key:
            raise SinkConfigurationError("conflict 'update' needs a key, the columns that identify a row")
        if self.conflict == "error" and (self.key or self.update):
            raise SinkConfigurationError("key and update have no meaning with conflict 'error'")


class SchemaMismatch(Exception):
    """A request does not fit the schema; the reason says what the schema has.

    Attributes:
        code: The code with which the request is rejected.
        reason: The reason.
    """

    def __init__(self, code: RejectCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class TableName(NamedTuple):
    """A table's name in the database; the schema is None where the database has none or the default one is meant."""

    schema: str | None
    name: str


class TableNames(NamedTuple):
    """The tables that a request could name.

    Attributes:
        writable: The tables that requests may write to, by the names that requests use.
        reserved: Names of tables that are a batcher's own: a ledger, dead letters, or anything that leads to one.
    """

    writable: dict[str, TableName]
    reserved: frozenset[str]


@dataclass(frozen=True)
class BoundColumn:
    """A column, and how a JSON value is bound to it.

    Attributes:
        name: The column's name in the database.
        bind: Turns a JSON value, null included, into the driver's value. Raises `BadValue`.
        plain: Whether leaving the column out is the same as sending null: it has no default of any kind.
        generated: Whether only the database writes the column.
        type_sql: The type's name for a cast, where the dialect needs one.
        nested: Whether arrays of the type cannot be unpacked element by element: the type is an array or a composite,
            or its arrays have another delimiter than a comma.
    """

    name: str
    bind: Reader
    plain: bool
    generated: bool = False
    type_sql: str = ""
    nested: bool = False


class BindingPlan(NamedTuple):
    """How records with one set of columns are bound."""

    columns: tuple[str, ...]
    binds: tuple[tuple[str, Reader], ...]


class Row(NamedTuple):
    """A record's values, bound to the columns of its table."""

    table: BoundTable
    columns: tuple[str, ...]
    values: list[Any]


@dataclass(eq=False)
class BoundTable:
    """A table of the database as the sink writes to it.

    It is compared by identity: the same table is another object after the schema was read again.

    Attributes:
        name: The name that requests use.
        table: SQLAlchemy's table.
        columns: The columns by name, in the table's order.
        rule: The conflict rule.
        statements: The insert statements by their columns; the dialect keeps them here.
        plans: How records are bound, by the names of their columns; at most `MAX_PLANS`.
    """

    name: str
    table: sa.Table
    columns: Mapping[str, BoundColumn]
    rule: TableRule
    statements: dict[tuple[str, ...], Any] = field(default_factory=dict)
    plans: dict[tuple[str, ...], BindingPlan] = field(default_factory=dict)

    def bind(self, record: Record) -> Row:
        """Binds a record's values by the types of their columns.

        Raises:
            SchemaMismatch: An unknown column, or a value that its column cannot hold.
        """
        values = record.values
        plan = self.plans.get(tuple(values)) or self._plan(values)
        try:
            return Row(self, plan.columns, [bind(values[name]) for name, bind in plan.binds])
        except BadValue:
            pass
        for name, bind in plan.binds:
            try:
                bind(values[name])
            except BadValue as err:
                raise SchemaMismatch(RejectCode.TYPE, f"{self.name}.{name}: {err.message(values[name])}") from None
        raise AssertionError("a value that could not be bound was bound the second time")

    def _plan(self, values: Mapping[str, Any]) -> BindingPlan:
        names = tuple(values)
        for name in names:
            column = self.columns.get(name)
            if column is None:
                known = _listed(self.columns)
                raise SchemaMismatch(
                    RejectCode.UNKNOWN_COLUMN, f"{self.name} has no column {show(name)}; it has {known}"
                )
            if column.generated:
                raise SchemaMismatch(
                    RejectCode.DATABASE, f"{self.name}.{name} is generated by the database: leave it out"
                )
        # In the table's order, so that the same columns in another order give the same statement.
        columns = tuple(name for name in self.columns if name in values)
        plan = BindingPlan(columns, tuple((name, self.columns[name].bind) for name in columns))
        if len(self.plans) >= MAX_PLANS:
            self.plans.clear()
        self.plans[names] = plan
        return plan

    def updated(self, columns: Sequence[str]) -> list[str]:
        """The columns of a record that a conflict overwrites."""
        chosen = self.columns if self.rule.update is None else self.rule.update
        return [name for name in columns if name in chosen and name not in self.rule.key]


class TableCatalog:
    """Finds tables by the names that requests use, and keeps what was read of them. It is thread-safe."""

    def __init__(
        self,
        *,
        rules: Mapping[str, TableRule] | None,
        list_names: Callable[[], TableNames],
        reflect: Callable[[str, TableName, TableRule], BoundTable],
        version: Callable[[], object],
    ) -> None:
        """Creates an empty catalog.

        Args:
            rules: The tables that may be written to, with their conflict rules; None for all tables.
            list_names: Reads the names of all tables from the database.
            reflect: Reads a table's columns from the database.
            version: Reads a value from the database that changes with its schema.
        """
        self._rules = rules
        self._list_names = list_names
        self._reflect = reflect
        self._version = version
        self._lock = threading.Lock()
        self._names: dict[str, TableName] = {}
        self._reserved: frozenset[str] = frozenset()
        self._tables: dict[str, BoundTable] = {}
        self._version_read: object = None
        self._is_read = False

    def __len__(self) -> int:
        """The number of tables that are kept."""
        return len(self._tables)

    def get(self, name: str) -> BoundTable:
        """The table of this name.

        Raises:
            SchemaMismatch: There is no such table, or it may not be written to.
            SinkConfigurationError: The table does not fit its rule.
        """
        table = self._tables.get(name)
        if table is not None:
            return table
        with self._lock:
            return self._tables.get(name) or self._find(name)

    def _find(self, name: str) -> BoundTable:
        if not self._is_read:
            self._read_names()
        if isinstance(name, str) and name in self._reserved:
            raise SchemaMismatch(RejectCode.UNKNOWN_TABLE, f"{name} is a batcher's own table")
        if (
            not isinstance(name, str)
            or name not in self._names
            or (self._rules is not None and name not in self._rules)
        ):
            allowed = self._names if self._rules is None else [n for n in self._rules if n in self._names]
            what = _listed(self._shortest_names(allowed)) if allowed else "none"
            raise SchemaMismatch(RejectCode.UNKNOWN_TABLE, f"no table {show(name)} to write to; there is {what}")
        rule = TableRule() if self._rules is None else self._rules[name]
        table = self._tables[name] = self._reflect(name, self._names[name], rule)
        return table

    def _shortest_names(self, names: Iterable[str]) -> list[str]:
        """Each table once, under the shortest of its names."""
        shortest: dict[TableName, str] = {}
        for name in names:
            table = self._names[name]
            if table not in shortest or len(name) < len(shortest[table]):
                shortest[table] = name
        return sorted(shortest.values())

    def _read_names(self) -> None:
        self._version_read = self._version()  # first, so that a change from here on is noticed
        self._names, self._reserved = self._list_names()
        self._is_read = True

    def refresh_if_changed(self) -> bool:
        """Reads the schema again if it has changed.

        Requests that do not fit cost one cheap query for each batch, however many they are.

        Returns:
            Whether the schema had changed.
        """
        with self._lock:
            if self._is_read and self._version() == self._version_read:
                return False
            self._tables = {}
            self._read_names()
            return True

    def check(self) -> None:
        """Reads every table that is named in the rules.

        Raises:
            SinkConfigurationError: A table is missing, or it does not have the columns or the key that its rule names.
        """
        with self._lock:
            self._tables = {}
            self._read_names()
            own = sorted(self._reserved.intersection(self._rules or ()))
            if own:
                raise SinkConfigurationError(f"{own[0]} is a batcher's own table: no request may write to it")
            missing = sorted(set(self._rules or ()) - set(self._names))
            if missing:
                there = _listed(self._shortest_names(self._names)) if self._names else "none"
                raise SinkConfigurationError(f"no table {_listed(missing)} in the database; there is {there}")
            for name in self._rules or ():
                self._find(name)


def check_rule(name: str, columns: Iterable[str], rule: TableRule, unique: Iterable[frozenset[str]]) -> None:
    """Compares a rule with its table.

    Args:
        name: The table's name.
        columns: The table's columns.
        rule: The table's rule.
        unique: The table's unique keys.

    Raises:
        SinkConfigurationError: The rule does not fit; the message says what the table has.
    """
    columns = list(columns)
    for column in [*rule.key, *(rule.update or ())]:
        if column not in columns:
            raise SinkConfigurationError(f"{name} has no column {column!r}; it has {_listed(columns)}")
    unique = list(unique)
    if rule.key and frozenset(rule.key) not in unique:
        there = "; ".join(", ".join(sorted(u)) for u in unique) or "none"
        raise SinkConfigurationError(
            f"{name}: no unique index over exactly ({', '.join(rule.key)}), which conflict {rule.conflict!r} needs; "
            f"the unique keys are: {there}"
        )


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - MAX_NAMES_SHOWN} more" if len(every) > MAX_NAMES_SHOWN else ""
    return ", ".join(every[:MAX_NAMES_SHOWN]) + more
