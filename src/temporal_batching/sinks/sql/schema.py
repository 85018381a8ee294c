"""The database's own tables: what may be written to, and how a record's values are bound to its columns.

Only names found in the database's catalogue ever reach a statement; a request's names are looked up here, never
pasted. Tables are looked at when they are first needed and then kept; a name or a value that does not fit makes
the sink ask whether the schema has changed, and look again if it has. So a migration is seen without a restart.
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
"""Sets of columns whose plan one table keeps: callers have a few, and an adversary must not fill the memory."""


@dataclass(frozen=True, kw_only=True)
class TableRule:
    """What happens when a record meets a row that is there already.

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
        conflict: ``error`` rejects the request; ``ignore`` keeps the row that is there and counts the record as
            written; ``update`` overwrites the row's columns with the record's.
        key: The columns by which a row is recognised; a unique index or the primary key must cover exactly them.
            Needed for ``update``; with ``ignore`` and no key, any unique index counts.
        update: The columns that ``update`` overwrites, as far as the record has them; by default all but the key.
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
            raise SinkConfigurationError("conflict 'update' needs the key by which a row is recognised")
        if self.conflict == "error" and (self.key or self.update):
            raise SinkConfigurationError("key and update have no meaning with conflict 'error'")


class SchemaMismatch(Exception):
    """A request that does not fit the schema, with what there is instead."""

    def __init__(self, code: RejectCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class TableName(NamedTuple):
    schema: str | None
    name: str


class TableNames(NamedTuple):
    """What a request could name.

    Attributes:
        writable: The tables that it may write to, by the name it would use.
        reserved: Names of tables that are a batcher's own: a ledger, dead letters, or whatever leads to one.
    """

    writable: dict[str, TableName]
    reserved: frozenset[str]


@dataclass(frozen=True)
class BoundColumn:
    """One column: how a JSON value becomes what the driver is given.

    Attributes:
        name: Its name in the database.
        bind: Reads a value, null included. Raises `BadValue`.
        plain: Whether leaving it out is the same as sending null: it has no default of any kind.
        generated: Whether only the database writes it.
        type_sql: The type's name for a cast, where the dialect needs one.
        nested: Whether arrays of the type cannot be unpacked element by element: it is an array or a composite itself,
            or has a delimiter of its own.
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
    table: BoundTable
    columns: tuple[str, ...]
    values: list[Any]


@dataclass(eq=False)
class BoundTable:
    """A table of the database as the sink writes to it. Compared by identity: looked at again, it is another one.

    Attributes:
        name: As requests call it.
        table: What SQLAlchemy found in the database.
        columns: By name, in the table's order.
        rule: What a conflict does.
        statements: Insert statements by their columns, for the dialect to keep.
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
                raise SchemaMismatch(RejectCode.TYPE, f"{self.name}.{name}: {err.told(values[name])}") from None
        raise AssertionError("a value that did not bind binds the second time")

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
        # In the table's order, so that the same columns sent in another order make the same statement.
        columns = tuple(name for name in self.columns if name in values)
        plan = BindingPlan(columns, tuple((name, self.columns[name].bind) for name in columns))
        if len(self.plans) >= MAX_PLANS:
            self.plans.clear()
        self.plans[names] = plan
        return plan

    def updated(self, columns: Sequence[str]) -> list[str]:
        """The columns that a conflict overwrites, of those that a record has."""
        chosen = self.columns if self.rule.update is None else self.rule.update
        return [name for name in columns if name in chosen and name not in self.rule.key]


class TableCatalog:
    """Finds tables by the names that requests use, and keeps them."""

    def __init__(
        self,
        *,
        rules: Mapping[str, TableRule] | None,
        list_names: Callable[[], TableNames],
        reflect: Callable[[str, TableName, TableRule], BoundTable],
        version: Callable[[], object],
    ) -> None:
        """Creates an empty catalogue.

        Args:
            rules: The tables that may be written to; None for every one.
            list_names: Asks the database for all tables that could be meant.
            reflect: Asks the database for one table's columns.
            version: Asks the database for something that differs once its schema has changed.
        """
        self._rules = rules
        self._list_names = list_names
        self._reflect = reflect
        self._version = version
        self._lock = threading.Lock()
        self._names: dict[str, TableName] = {}
        self._reserved: frozenset[str] = frozenset()
        self._tables: dict[str, BoundTable] = {}
        self._seen: object = None
        self._looked = False

    def __len__(self) -> int:
        """The tables that are kept."""
        return len(self._tables)

    def get(self, name: str) -> BoundTable:
        """The table of this name.

        Raises:
            SchemaMismatch: There is none, or it may not be written to.
        """
        table = self._tables.get(name)
        if table is not None:
            return table
        with self._lock:
            return self._tables.get(name) or self._find(name)

    def _find(self, name: str) -> BoundTable:
        if not self._looked:
            self._look()
        if isinstance(name, str) and name in self._reserved:
            raise SchemaMismatch(RejectCode.UNKNOWN_TABLE, f"{name} is a batcher's own table")
        if (
            not isinstance(name, str)
            or name not in self._names
            or (self._rules is not None and name not in self._rules)
        ):
            allowed = self._names if self._rules is None else [n for n in self._rules if n in self._names]
            what = _listed(self._once(allowed)) if allowed else "none"
            raise SchemaMismatch(RejectCode.UNKNOWN_TABLE, f"no table {show(name)} to write to; there is {what}")
        rule = TableRule() if self._rules is None else self._rules[name]
        table = self._tables[name] = self._reflect(name, self._names[name], rule)
        return table

    def _once(self, names: Iterable[str]) -> list[str]:
        """Each table once, by the shortest of the names that mean it."""
        shortest: dict[TableName, str] = {}
        for name in names:
            table = self._names[name]
            if table not in shortest or len(name) < len(shortest[table]):
                shortest[table] = name
        return sorted(shortest.values())

    def _look(self) -> None:
        self._seen = self._version()  # first: a change from here on is one more change
        self._names, self._reserved = self._list_names()
        self._looked = True

    def refresh_if_changed(self) -> bool:
        """Looks again if the schema has changed since. Returns whether it had.

        Requests that do not fit cost one cheap question a batch, however many there are: not a look.
        """
        with self._lock:
            if self._looked and self._version() == self._seen:
                return False
            self._tables = {}
            self._look()
            return True

    def check(self) -> None:
        """Looks at every table that is named in the rules.

        Raises:
            SinkConfigurationError: One is missing, or its rule names columns or a key that it does not have.
        """
        with self._lock:
            self._tables = {}
            self._look()
            own = sorted(self._reserved.intersection(self._rules or ()))
            if own:
                raise SinkConfigurationError(f"{own[0]} is a batcher's own table: no request may write to it")
            missing = sorted(set(self._rules or ()) - set(self._names))
            if missing:
                there = _listed(self._once(self._names)) if self._names else "none"
                raise SinkConfigurationError(f"no table {_listed(missing)} in the database; there is {there}")
            for name in self._rules or ():
                self._find(name)


def check_rule(name: str, columns: Iterable[str], rule: TableRule, unique: Iterable[frozenset[str]]) -> None:
    """Holds a rule against the table.

    Raises:
        SinkConfigurationError: With what the table has.
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
            f"unique are: {there}"
        )


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - MAX_NAMES_SHOWN} more" if len(every) > MAX_NAMES_SHOWN else ""
    return ", ".join(every[:MAX_NAMES_SHOWN]) + more
