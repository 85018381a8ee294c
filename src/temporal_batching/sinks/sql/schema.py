"""The database's tables: which of them may be written to, and how a record's values are bound to their columns.

Statements contain only names that were read from the database's catalogs; names in requests are looked up, never
inserted into a statement. A table is read when it is first needed, and then kept. If a name or a value does not fit,
the sink checks whether the schema has changed, and reads it again if so. So a migration needs no restart.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import sqlalchemy as sa

from temporal_batching.contract import INSERT, Operation, Record, RejectCode, Returned
from temporal_batching.errors import SinkConfigurationError
from temporal_batching.sinks.rules import TableRule, operation_fault
from temporal_batching.sinks.sql.shown import Shown
from temporal_batching.sinks.sql.values import BadValue, Reader, show

ANY_SHOWN = Shown("{}", lambda value: value)
MAX_NAMES_SHOWN = 12
MAX_PLANS = 256
"""The sets of columns whose plans one table keeps. Callers have a few; the limit bounds the memory."""


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
        unfit: Names of tables that cannot be written to, with the reason.
    """

    writable: dict[str, TableName]
    reserved: frozenset[str]
    unfit: Mapping[str, str] = MappingProxyType({})


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
        shown: How the column is read back.
        number: ``integer``, ``exact`` or ``double`` if it holds numbers that can be added, empty otherwise.
    """

    name: str
    bind: Reader
    plain: bool
    generated: bool = False
    type_sql: str = ""
    nested: bool = False
    shown: Shown = ANY_SHOWN
    number: str = ""


class BindingPlan(NamedTuple):
    """How records with one operation and one set of columns are bound."""

    columns: tuple[str, ...]
    binds: tuple[tuple[str, Reader], ...]


@dataclass(eq=False, slots=True)
class Ask:
    """What is read back of one row, and which of its values are those of earlier rows.

    Attributes:
        asked: The columns that the caller receives.
        columns: The columns to read: those, and those that later records refer to.
        references: By the position of a value: the `Ask` of the earlier row, and its column.
        stage: Rows of one stage are inserted together; those that refer to them come in a later one.
        row: What was read, by column; None if there is no row to show.
    """

    asked: tuple[str, ...]
    columns: tuple[str, ...]
    references: list[tuple[int, Ask, str]] = field(default_factory=list)
    stage: int = 0
    row: dict[str, Any] | None = None

    @property
    def returned(self) -> dict[str, Any] | None:
        """What the caller receives of the row."""
        if not self.asked:
            return {}
        return None if self.row is None else {name: self.row[name] for name in self.asked}


class Row(NamedTuple):
    """A record's values, bound to the columns of its table."""

    table: BoundTable
    columns: tuple[str, ...]
    values: list[Any]
    ask: Ask | None = None
    operation: Operation = INSERT

    @property
    def is_read(self) -> bool:
        """Whether it is read back."""
        return self.ask is not None and bool(self.ask.columns)


@dataclass(eq=False)
class BoundTable:
    """A table of the database as the sink writes to it.

    It is compared by identity: the same table is another object after the schema was read again.

    Attributes:
        name: The name that requests use.
        table: SQLAlchemy's table.
        columns: The columns by name, in the table's order.
        rule: The conflict rule.
        key_index: The name of the unique index over the rule's key, where statements need it.
        statements: The statements by their columns; the dialect keeps them here.
        plans: How records are bound, by the names of their columns and their operation; at most `MAX_PLANS`.
        identified_by: What identifies a row that was just written, where the dialect has to look for it.
        shows_many: Whether one statement can insert many rows and tell which of them returned what; some may return
            nothing.
        needs_order: Whether its rule allows more than to insert rows as they are.
        only_appends: Whether inserts never have to be in an order other than that of arrival.
    """

    name: str
    table: sa.Table
    columns: Mapping[str, BoundColumn]
    rule: TableRule
    key_index: str = ""
    statements: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    plans: dict[tuple[Any, ...], BindingPlan] = field(default_factory=dict)
    identified_by: tuple[str, ...] = ()
    shows_many: bool = False
    needs_order: bool = field(init=False, default=False)
    only_appends: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.needs_order = self.rule.changes_rows or self.rule.conflict == "add"
        self.only_appends = self.rule.conflict == "error" or (self.rule.conflict == "ignore" and not self.rule.key)

    def bind(self, record: Record) -> Row:
        """Binds a record's values by the types of their columns. References are left to `bind_references`.

        Raises:
            SchemaMismatch: An unknown column, a value that its column cannot hold, or an operation that the table's
                rule does not allow.
        """
        values, operation = record.values, record.operation
        plan = self.plan_of(values, operation)
        if not record.returning:
            try:
                return Row(self, plan.columns, [bind(values[name]) for name, bind in plan.binds], None, operation)
            except BadValue:
                pass
        bound: list[Any] = []
        refers = False
        for name, _ in plan.binds:
            value = values[name]
            if isinstance(value, Returned):
                refers = True
                bound.append(None)
                continue
            bound.append(self.bind_value(name, value, operation))
        asked = tuple(record.returning)
        for name in asked:
            self.check_readable(name)
        return Row(self, plan.columns, bound, Ask(asked, asked) if asked or refers else None, operation)

    def plan_of(self, values: Mapping[str, Any], operation: Operation = INSERT) -> BindingPlan:
        """How records with this operation and these columns are bound.

        Raises:
            SchemaMismatch: An unknown column, or an operation that the table's rule does not allow.
        """
        key = tuple(values) if operation == INSERT else (operation, tuple(values))
        return self.plans.get(key) or self._plan(key, values, operation)

    def bind_value(self, name: str, value: Any, operation: Operation = INSERT) -> Any:
        """Binds the value of one column.

        Raises:
            SchemaMismatch: The column cannot hold it, or it is null where the operation needs a value.
        """
        try:
            return self._reader(name, operation)(value)
        except BadValue as err:
            raise SchemaMismatch(RejectCode.TYPE, f"{self.name}.{name}: {err.message(value)}") from None

    def check_readable(self, name: str) -> None:
        """Checks that a column can be read back.

        Raises:
            SchemaMismatch: There is no such column.
        """
        if name not in self.columns:
            known = _listed(self.columns)
            raise SchemaMismatch(
                RejectCode.UNKNOWN_COLUMN, f"{self.name} has no column {show(name)} to return; it has {known}"
            )

    def _reader(self, name: str, operation: Operation) -> Reader:
        read, rule = self.columns[name].bind, self.rule
        adds = operation == INSERT and rule.conflict == "add"
        if name in rule.key and (adds or operation != INSERT):
            return _not_null(read, "a value", "it is part of the key, which names the row")
        return _not_null(read, "a number to add") if adds and name in rule.add else read

    def _plan(self, key: tuple[Any, ...], values: Mapping[str, Any], operation: Operation) -> BindingPlan:
        for name in values:
            column = self.columns.get(name)
            if column is None:
                known = _listed(self.columns)
                raise SchemaMismatch(
                    RejectCode.UNKNOWN_COLUMN, f"{self.name} has no column {show(name)}; it has {known}"
                )
            if column.generated and (operation == INSERT or name not in self.rule.key):
                raise SchemaMismatch(
                    RejectCode.DATABASE, f"{self.name}.{name} is generated by the database: leave it out"
                )
        if fault := operation_fault(self.name, self.rule, operation, values):
            raise SchemaMismatch(RejectCode.INVALID, fault)
        # In the table's order, so that the same columns in another order give the same statement.
        columns = tuple(name for name in self.columns if name in values)
        plan = BindingPlan(columns, tuple((name, self._reader(name, operation)) for name in columns))
        if len(self.plans) >= MAX_PLANS:
            self.plans.clear()
        self.plans[key] = plan
        return plan

    def updated(self, columns: Sequence[str]) -> list[str]:
        """The columns of a record that a conflict overwrites."""
        rule = self.rule
        chosen = rule.update if rule.update is not None else () if rule.conflict == "add" else self.columns
        return [name for name in columns if name in chosen and name not in rule.key]


def _not_null(read: Reader, expected: str, why: str = "") -> Reader:
    def bind(value: Any) -> Any:
        if value is None:
            raise BadValue(expected, why)
        return read(value)

    return bind


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
        self._unfit: Mapping[str, str] = {}
        self._tables: dict[str, BoundTable] = {}
        self._version_read: object = None
        self._is_read = False

    def __len__(self) -> int:
        """The number of tables that are kept."""
        return len(self._tables)

    def named(self) -> list[BoundTable]:
        """The tables that are named in the rules and are there."""
        with self._lock:
            return [table for name in self._rules or () if (table := self._tables.get(name)) is not None]

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
        if isinstance(name, str) and name in self._unfit and (self._rules is None or name in self._rules):
            raise SchemaMismatch(RejectCode.UNKNOWN_TABLE, f"{name} {self._unfit[name]}")
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
        self._names, self._reserved, self._unfit = self._list_names()
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
            unfit = sorted(set(self._unfit).intersection(self._rules or ()))
            if unfit:
                raise SinkConfigurationError(f"{unfit[0]} {self._unfit[unfit[0]]}")
            missing = sorted(set(self._rules or ()) - set(self._names))
            if missing:
                there = _listed(self._shortest_names(self._names)) if self._names else "none"
                raise SinkConfigurationError(f"no table {_listed(missing)} in the database; there is {there}")
            for name in self._rules or ():
                self._find(name)


def check_rule(
    name: str, columns: Mapping[str, BoundColumn], rule: TableRule, unique: Iterable[frozenset[str]]
) -> None:
    """Compares a rule with its table.

    Args:
        name: The table's name.
        columns: The table's columns.
        rule: The table's rule.
        unique: The table's unique keys.

    Raises:
        SinkConfigurationError: The rule does not fit; the message says what the table has.
    """
    for column in [*rule.key, *(rule.update or ()), *rule.add]:
        if column not in columns:
            raise SinkConfigurationError(f"{name} has no column {column!r}; it has {_listed(columns)}")
    for column in rule.add:
        if not columns[column].number or columns[column].generated:
            what = "is generated by the database" if columns[column].generated else "holds no numbers"
            raise SinkConfigurationError(f"{name}.{column} {what}: conflict 'add' cannot add to it")
    unique = list(unique)
    if rule.key and frozenset(rule.key) not in unique:
        there = "; ".join(", ".join(sorted(u)) for u in unique) or "none"
        needed = f"conflict {rule.conflict!r} needs" if rule.conflict != "error" else "updates and deletes need"
        raise SinkConfigurationError(
            f"{name}: no unique index over exactly ({', '.join(rule.key)}), which {needed}; "
            f"the unique keys are: {there}"
        )


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - MAX_NAMES_SHOWN} more" if len(every) > MAX_NAMES_SHOWN else ""
    return ", ".join(every[:MAX_NAMES_SHOWN]) + more
