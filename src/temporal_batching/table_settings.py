"""Rules of tables as settings: tables of a TOML file, JSON of a variable, or the text of a flag.

The three say the same:

    [tables.orders]                 {"orders": {"conflict": "update",       --table 'orders: conflict=update key=id'
    conflict = "update"              "key": ["id"]}}
    key = ["id"]
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import fields
from typing import Any

from temporal_batching.errors import SinkConfigurationError
from temporal_batching.sinks.rules import TableRule

TEXT = "TABLE, or 'TABLE: conflict=update key=COLUMN,...'"
_SPACED = re.compile(r"\s*([=,])\s*")
_WORD = "conflict"
"""The part of a rule that is one word; the others are lists of names."""


def parse_tables(value: Any) -> Mapping[str, TableRule] | None:
    """Reads the tables that requests may write to, each with its rule.

    Args:
        value: A table of rules as in TOML; the text of a flag, or a list of them; JSON of either; None for all tables.

    Raises:
        ValueError: The message names the table, the part of its rule, the value, and what is allowed.
    """
    if value is None:
        return None
    if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        try:
            value = json.loads(value)
        except ValueError as err:
            raise ValueError(f"not JSON ({err}); {TEXT}") from None
    rules: dict[str, TableRule] = {}
    for name, parts in _named(value):
        if name in rules:
            raise ValueError(f"{name}: named twice")
        rules[name] = _rule(name, parts)
    if not rules:
        raise ValueError(f"no table: {TEXT}")
    return rules


def tables_as_json(rules: Mapping[str, TableRule]) -> str:
    """The JSON that `parse_tables` reads back."""
    return json.dumps({name: _parts(rule) for name, rule in rules.items()})


def _parts(rule: TableRule) -> dict[str, Any]:
    """The parts of a rule that differ from those of a table without one."""
    plain = type(rule)()
    parts = {field.name: (getattr(rule, field.name), getattr(plain, field.name)) for field in fields(rule)}
    return {name: _as_list(value) for name, (value, default) in parts.items() if _as_list(value) != _as_list(default)}


def _as_list(value: str | Iterable[str] | None) -> str | list[str] | None:
    if value is None or isinstance(value, str):
        return value
    return sorted(value) if isinstance(value, Set) else list(value)


def _named(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, str):
        yield from _read_text(value)
    elif isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
        for one in value:
            yield from _read_text(one)
    else:
        raise ValueError(f"{value!r}: a list of names, or a table of rules by the tables' names")


def _read_text(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    for item in filter(None, (one.strip() for one in text.split(";"))):
        names, _, rule = item.partition(":")
        parts: dict[str, str] = {}
        for part in _SPACED.sub(r"\1", rule).split():
            name, equals, value = part.partition("=")
            if not equals or name in parts:
                raise ValueError(f"{item!r}: {TEXT}")
            parts[name] = value
        for name in names.split(","):
            if not name.strip() or "=" in name:
                raise ValueError(f"{item!r}: {TEXT}")
            yield name.strip(), parts


def _rule(name: str, parts: Any) -> TableRule:
    if isinstance(parts, TableRule):
        return parts
    known = [field.name for field in fields(TableRule)]
    allowed = f"the parts of a rule are {', '.join(known)}"
    if not isinstance(parts, Mapping):
        raise ValueError(f"{name} {parts!r}: {allowed}")
    read: dict[str, Any] = {}
    for part, value in parts.items():
        if part not in known:
            close = difflib.get_close_matches(part, known, n=1, cutoff=0.7)
            hint = f"did you mean {close[0]}? " if close else ""
            if isinstance(value, Mapping):
                hint = f'a name with a dot is quoted, as in [tables."{name}.{part}"]; '
            raise ValueError(f"{name}.{part}: {hint}{allowed}")
        if value is not None:
            read[part] = value if part == _WORD else _names(f"{name}.{part}", value)
    try:
        return TableRule(**read)
    except SinkConfigurationError as err:
        raise ValueError(f"{name}: {err}") from None


def _names(part: str, value: Any) -> list[str]:
    if isinstance(value, str):
        value = [one.strip() for one in value.split(",")]
    if not isinstance(value, Iterable) or isinstance(value, Mapping):
        raise ValueError(f"{part} {value!r}: a list of names")
    names = list(value)
    if not all(isinstance(one, str) and one for one in names):
        raise ValueError(f"{part} {names!r}: a list of names")
    return names
