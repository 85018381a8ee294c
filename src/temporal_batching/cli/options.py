"""The settings as options of a command: made from `BatcherSettings`, so that a setting is declared once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from temporal_batching.cli.connect import Target
from temporal_batching.cli.console import fail
from temporal_batching.settings import (
    CONFIG_VARIABLE,
    FLUSH_FIELDS,
    LOG_FIELDS,
    LOG_FORMATS,
    LOG_LEVELS,
    OBSERVED_FIELDS,
    POLICY_FIELDS,
    SERVE,
    SINK_FIELDS,
    VERSION_FIELDS,
    BatcherSettings,
    SettingsError,
    flag,
    format_duration,
    format_size,
    load,
    parse_duration,
    variable,
)

EXIT_USAGE = 2

Value = TypeVar("Value")


class Command(TyperCommand):
    """A command whose help shows no Python type after a flag."""

    def get_params(self, ctx: Any) -> Any:
        """The parameters, ``--help`` among them."""
        return _without_types(super().get_params(ctx))


class Group(TyperGroup):
    """A group of commands whose help shows no Python type after a flag."""

    def get_params(self, ctx: Any) -> Any:
        """The parameters, ``--help`` among them."""
        return _without_types(super().get_params(ctx))


def _without_types(params: Any) -> Any:
    for param in params:
        if getattr(param, "is_flag", False):
            param.metavar = ""
    return params


BATCHER = ("name", "task_queue", "shards")
POLICY = POLICY_FIELDS
SINK = ("sink", *SINK_FIELDS)
"""The sink, and everything that can be set of a database."""
OBSERVED = OBSERVED_FIELDS
VERSION = VERSION_FIELDS
LOGGED = LOG_FIELDS
FLUSHES = FLUSH_FIELDS


def with_settings(
    *names: str, defaults: Mapping[str, Any] | None = None, temporal: bool = True
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command ``(settings, target, *, ...)`` the options of these settings, ``--config`` and Temporal's place.

    A command that needs no Temporal has no options for its place (``temporal=False``). All values arrive as text, so
    that one place reads flags, variables and file keys, and words their errors.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(command, eval_str=True).parameters.values())[2:]
        common = [one for one in _COMMON if temporal or one.name == "config"]
        added = [_option(name, (defaults or {}).get(name)) for name in names] + common

        @functools.wraps(command)
        def wrapper(**values: Any) -> None:
            flags = {name: values.pop(name, None) for name in (*names, "data_converter")}
            given = frozenset(name for name, value in flags.items() if value is not None and value != [])
            place = {name: values.pop(name, None) for name in ("address", "namespace", "profile")}
            try:
                settings = load(flags, config=values.pop("config"), defaults=defaults)
            except SettingsError as err:
                fail(err, EXIT_USAGE)
            command(settings, Target(**place, data_converter=settings.data_converter, flags=given), **values)

        parameters = [*own, *added]
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
        return wrapper

    return decorate


_FOLLOWS_NAME = "batcher-queue for main, batcher-queue-NAME for another"
"""What is shown as the default of the task queue."""


def _option(name: str, default: Any) -> inspect.Parameter:
    field = BatcherSettings.model_fields[name]
    value = default if default is not None else field.default if field.default_factory is None else _FOLLOWS_NAME
    shown = SHOWN_DEFAULTS.get(name) or as_people_write(name, value)
    switch = isinstance(field.default, bool)
    option = typer.Option(
        f"{flag(name)}/--no-{flag(name)[2:]}" if switch else flag(name),
        help=f"{_HELP.get(name, field.description)}. [dim]{variable(name)}{f'; {shown}' if shown else ''}[/dim]",
        metavar=_metavar(name, field.default),
        show_default=False,
        rich_help_panel=_panel(name),
    )
    kind: Any = bool if switch else list[str] if name == "tables" else str
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


SHOWN_DEFAULTS = {"sink": "console", "tables": "all tables"}
"""Defaults that are shown in other words than they have."""
_HELP = {
    "tables": "A table that requests may write to, with its rule: 'orders: conflict=update key=id'. May be repeated",
}
"""What a flag is for, where it is not its setting's description."""


def _panel(name: str) -> str:
    """Under which heading of the help a setting stands."""
    panels = {
        "Batch policy": POLICY,
        "Database": SINK_FIELDS,
        "Observation": (*OBSERVED, *LOGGED),
        "Flushes": FLUSHES,
        "Version": VERSION,
    }
    return next((panel for panel, names in panels.items() if name in names), "Batcher")


def as_people_write(name: str, value: Any) -> str:
    """The value of a setting as it is written in a file."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, timedelta):
        return format_duration(value)
    return format_size(value) if name.endswith("bytes") and isinstance(value, int) else str(value)


def switch(name: str, help: str, **options: Any) -> Any:
    """A flag without a value. Without a metavar Typer would show its Python type."""
    return typer.Option(name, help=help, metavar="", show_default=False, **options)


def read_duration(option: str, text: str, *, zero: bool = False) -> timedelta:
    """The value of an option that is a duration, more than zero unless zero is allowed.

    Raises:
        SettingsError: It is none. The message names the option.
    """
    duration = read_value(option, text, parse_duration)
    if duration < timedelta(0) or (duration == timedelta(0) and not zero):
        raise SettingsError(f"{option} {text!r}: {'zero or more' if zero else 'more than zero'}")
    return duration


def read_value(option: str, text: str, parse: Callable[[str], Value]) -> Value:
    """The value of an option, as a parser reads it.

    Raises:
        SettingsError: The parser raised a `ValueError`. The message names the option.
    """
    try:
        return parse(text)
    except ValueError as err:
        raise SettingsError(f"{option} {text!r}: {err}") from None


def read_moment(option: str, text: str) -> datetime | timedelta:
    """A moment from ``2026-01-31`` or a timestamp, in UTC unless it says otherwise; or a duration back from now.

    Raises:
        SettingsError: It is neither. The message names the option.
    """
    try:
        return parse_duration(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(
            f"{option} {text!r}: a duration such as 24h, or a moment such as 2026-01-31T12:00Z"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _metavar(name: str, default: Any) -> str:
    if name == "sink":
        return "URL|console"
    if name == "tables":
        return "TABLE[: RULE]"
    if name in ("ledger_table", "dead_letters"):
        return "TABLE"
    if isinstance(default, bool):
        return ""
    if name in LOGGED:
        return "|".join(LOG_LEVELS if name == "log_level" else LOG_FORMATS)
    if name in ("health", "metrics"):
        return "HOST:PORT"
    if name == "serve":
        return "|".join(SERVE)
    if name.endswith("bytes"):
        return "SIZE"
    return "DURATION" if isinstance(default, timedelta) else "N" if isinstance(default, int) else "NAME"


def _common(name: str, kind: Any, help: str, metavar: str) -> inspect.Parameter:
    option = typer.Option(flag(name), help=help, metavar=metavar, show_default=False, rich_help_panel="Where")
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


_COMMON = [
    _common("config", Path, f"A TOML file with settings. [dim]{CONFIG_VARIABLE}[/dim]", "FILE"),
    _common("address", str, "Temporal's address. [dim]TEMPORAL_ADDRESS; localhost:7233[/dim]", "HOST:PORT"),
    _common("namespace", str, "Temporal's namespace. [dim]TEMPORAL_NAMESPACE; default[/dim]", "NAME"),
    _common("profile", str, "A profile of Temporal's own settings file. [dim]TEMPORAL_PROFILE; default[/dim]", "NAME"),
    _common(
        "data_converter",
        str,
        f"{BatcherSettings.model_fields['data_converter'].description}. [dim]{variable('data_converter')}[/dim]",
        "MODULE:NAME",
    ),
]
