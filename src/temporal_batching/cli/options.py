"""The settings as options of a command: made from `BatcherSettings`, so that a setting is declared once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from temporal_batching.cli.connect import Target
from temporal_batching.cli.console import fail
from temporal_batching.settings import (
    CONFIG_VARIABLE,
    ENV_PREFIX,
    POLICY_FIELDS,
    BatcherSettings,
    SettingsError,
    flag,
    format_duration,
    format_size,
    load,
    parse_duration,
)

EXIT_USAGE = 2


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


def with_settings(
    *names: str, defaults: Mapping[str, Any] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command ``(settings, target, *, ...)`` the options of these settings, ``--config`` and Temporal's place.

    All values arrive as text, so that one place reads flags, variables and file keys, and words their errors.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(command, eval_str=True).parameters.values())[2:]
        added = [_option(name, (defaults or {}).get(name)) for name in names] + _COMMON

        @functools.wraps(command)
        def wrapper(**values: Any) -> None:
            flags = {name: values.pop(name) for name in (*names, "data_converter")}
            given = frozenset(name for name, value in flags.items() if value is not None)
            address, namespace = values.pop("address"), values.pop("namespace")
            try:
                settings = load(flags, config=values.pop("config"), defaults=defaults)
            except SettingsError as err:
                fail(err, EXIT_USAGE)
            command(settings, Target(address, namespace, settings.data_converter, given), **values)

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
    shown = "console" if name == "sink" else _as_people_write(name, value)
    option = typer.Option(
        flag(name),
        help=f"{field.description}. [dim]{ENV_PREFIX}{name.upper()}; {shown}[/dim]",
        metavar=_metavar(name, field.default),
        show_default=False,
        rich_help_panel="Batch policy" if name in POLICY else "Batcher",
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option]
    )


def _as_people_write(name: str, value: Any) -> str:
    if isinstance(value, timedelta):
        return format_duration(value)
    return format_size(value) if name.endswith("bytes") and isinstance(value, int) else str(value)


def switch(name: str, help: str, **options: Any) -> Any:
    """A flag without a value. Without a metavar Typer would show its Python type."""
    return typer.Option(name, help=help, metavar="", show_default=False, **options)


def read_duration(option: str, text: str) -> timedelta:
    """The value of an option that is a duration, more than zero.

    Raises:
        SettingsError: It is none. The message names the option.
    """
    try:
        duration = parse_duration(text)
    except ValueError as err:
        raise SettingsError(f"{option} {text!r}: {err}") from None
    if duration <= timedelta(0):
        raise SettingsError(f"{option} {text!r}: more than zero")
    return duration


def _metavar(name: str, default: Any) -> str:
    if name == "sink":
        return "URL|console"
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
    _common(
        "data_converter",
        str,
        f"{BatcherSettings.model_fields['data_converter'].description}. [dim]{ENV_PREFIX}DATA_CONVERTER[/dim]",
        "MODULE:NAME",
    ),
]
