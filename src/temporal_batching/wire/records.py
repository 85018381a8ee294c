"""One record as it travels: table, values, references to earlier records, columns to return, and operation.

References stand beside the values, not among them, so that no JSON value can be mistaken for one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from temporal_batching.contract import INSERT, OPERATIONS, JsonObject, Operation, Record, Returned
from temporal_batching.errors import InvalidRequest
from temporal_batching.wire.checks import check_list, check_text, json_type

MAX_RETURNING = 100
"""Columns that one record may ask for."""


def record_to_wire(
    table: str, values: Mapping[str, Any], returning: Any = (), operation: Operation = INSERT
) -> JsonObject:
    """A record as it travels, its values JSON or `Returned`."""
    wire: JsonObject = {"table": table, "values": values}
    if Returned in set(map(type, values.values())):
        wire["values"], wire["references"] = split_references(values)
    if returning:
        wire["returning"] = list(returning)
    if operation != INSERT:
        wire["operation"] = operation
    return wire


def split_references(values: Mapping[str, Any]) -> tuple[JsonObject, JsonObject]:
    """Values, and references as they travel, apart from each other."""
    plain = {name: value for name, value in values.items() if not isinstance(value, Returned)}
    return plain, {n: [v.record, v.column] for n, v in values.items() if isinstance(v, Returned)}


def read_record(wire: Any, number: int, known: set[str] | None = None) -> JsonObject:
    """Checks a record, and returns what of it travels on.

    Args:
        wire: What came.
        number: Its position in its request.
        known: Tables and columns that were checked, for many records that are alike; what is new is added.

    Raises:
        InvalidRequest: With what is wrong and what is allowed.
    """
    if type(wire) is not dict and not isinstance(wire, Mapping):
        raise InvalidRequest(f"a record is an object with table and values, not {json_type(wire)}")
    known = set() if known is None else known
    table: Any = wire.get("table")
    if type(table) is not str or table not in known:
        known.add(check_text(table, "table"))
    values, references, returning = wire.get("values"), wire.get("references"), wire.get("returning")
    if (type(values) is not dict and not isinstance(values, Mapping)) or not (values or references):
        raise InvalidRequest(f"values of a record for {table!r}: a JSON object with at least one column")
    if not values.keys() <= known:
        known.update(check_text(column, "a column name") for column in values)
    record: JsonObject = {"table": table, "values": values}
    if references not in (None, {}):
        record["references"] = _read_references(references, values, table, number)
    if returning not in (None, []):
        record["returning"] = _read_returning(returning, table)
    operation = wire.get("operation")
    if operation not in (None, INSERT):
        record["operation"] = read_operation(operation)
    return record


def read_operation(operation: Any) -> Operation:
    """The operation of a record.

    Raises:
        InvalidRequest: There is no such operation.
    """
    for known in OPERATIONS:
        if operation == known:
            return known
    # Of another type it is not shown: it may be nested deeper than can be written.
    what = repr(operation[:30]) if isinstance(operation, str) else json_type(operation)
    raise InvalidRequest(f"an operation is one of {', '.join(OPERATIONS)}, not {what}")


def _read_references(references: Any, values: Mapping[str, Any], table: str, number: int) -> JsonObject:
    if not isinstance(references, Mapping):
        raise InvalidRequest(f"references of a record for {table!r}: an object of columns, not {json_type(references)}")
    read: JsonObject = {}
    for column, target in references.items():
        check_text(column, "a column name")
        if column in values:
            raise InvalidRequest(
                f"column {column!r} of a record for {table!r} has a value and a reference: one of them"
            )
        if not isinstance(target, list | tuple) or len(target) != 2:
            raise InvalidRequest(
                f"a reference of a record for {table!r}: the number of an earlier record, and a column"
            )
        earlier = target[0]
        if isinstance(earlier, bool) or not isinstance(earlier, int) or not 0 <= earlier < number:
            # Of another type it is not shown: it may be nested deeper than can be written.
            what = f"record {earlier}" if type(earlier) is int else json_type(earlier)
            raise InvalidRequest(
                f"record {number}, for {table!r}, refers to {what[:30]}: "
                + (f"only to an earlier one, 0 to {number - 1}" if number else "it is the first, and can refer to none")
            )
        read[column] = [earlier, check_text(target[1], "a column of a reference")]
    return read


def _read_returning(returning: Any, table: str) -> list[str]:
    columns = [check_text(column, "a column to return") for column in check_list(returning, "returning")]
    if len(set(columns)) < len(columns):
        raise InvalidRequest(f"returning of a record for {table!r} names a column twice")
    if len(columns) > MAX_RETURNING:
        raise InvalidRequest(f"returning of a record for {table!r} has {len(columns)} columns: at most {MAX_RETURNING}")
    return columns


def written_by(wire: JsonObject) -> JsonObject:
    """What of a record decides what is written: all but what it returns."""
    return {name: part for name, part in wire.items() if name != "returning"} if "returning" in wire else wire


def load_record(wire: Mapping[str, Any]) -> Record:
    """The record that `record_to_wire` or `read_record` described; not checked again."""
    values = wire["values"]
    if len(wire) == 2:  # nearly every one
        return Record(wire["table"], values)
    references = wire.get("references")
    if references:
        values = {**values, **{name: Returned(number, column) for name, (number, column) in references.items()}}
    return Record(wire["table"], values, tuple(wire.get("returning", ())), wire.get("operation") or INSERT)
