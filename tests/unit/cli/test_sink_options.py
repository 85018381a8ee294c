"""Everything that can be set of `SqlSink` is a setting, a flag of every command that needs it, and reaches the sink."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from temporal_batching import ConsoleSink, SqlSink, TableRule
from temporal_batching.cli import worker as command
from temporal_batching.cli.connect import Target
from temporal_batching.cli.options import SINK, with_settings
from temporal_batching.settings import SINK_FIELDS, BatcherSettings, load

WITHOUT_A_SETTING = {
    "url_or_engine": "the setting `sink`",
    "clock": "for tests",
}
"""Parameters of `SqlSink` that are no setting, with the reason."""

OTHER: dict[str, tuple[list[str], Any]] = {
    "tables": (
        ["--table", "a: conflict=ignore", "--table", "b"],
        {"a": TableRule(conflict="ignore"), "b": TableRule()},
    ),
    "ledger_table": (["--ledger-table", "audit.ledger"], "audit.ledger"),
    "create_ledger": (["--no-create-ledger"], False),
    "dead_letters": (["--dead-letters", "none"], None),
    "statement_timeout": (["--statement-timeout", "9s"], timedelta(seconds=9)),
    "lock_timeout": (["--lock-timeout", "200ms"], timedelta(milliseconds=200)),
    "connect_timeout": (["--connect-timeout", "3"], timedelta(seconds=3)),
    "max_connections": (["--max-connections", "9"], 9),
    "max_returned_bytes": (["--max-returned-bytes", "64KiB"], 65_536),
    "wal": (["--no-wal"], False),
}
"""For each option flags that set it, and what the sink gets."""

PARAMETERS = {
    name: parameter for name, parameter in inspect.signature(SqlSink.__init__).parameters.items() if name != "self"
}


def test_every_parameter_of_the_sink_is_a_setting_or_says_why_not() -> None:
    assert set(PARAMETERS) == set(SINK_FIELDS) | set(WITHOUT_A_SETTING)
    assert set(SINK_FIELDS) == set(OTHER)
    assert set(SINK_FIELDS) <= set(BatcherSettings.model_fields)


@pytest.mark.parametrize("name", SINK_FIELDS)
def test_the_default_of_an_option_is_the_sinks_own(name: str) -> None:
    assert getattr(load(), name) == PARAMETERS[name].default


def read(*flags: str) -> BatcherSettings:
    """The settings of a command with these flags."""
    found: list[BatcherSettings] = []
    app = typer.Typer()

    @app.command()
    @with_settings(*SINK)
    def show(settings: BatcherSettings, target: Target) -> None:
        found.append(settings)

    done = CliRunner().invoke(app, list(flags))
    assert done.exit_code == 0, done.output
    return found[0]


@pytest.fixture(params=["worker", "service"])
def open_sink(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """What opens the sink, of the command and of the service."""
    if request.param == "worker":
        return command.open_sink
    file = Path(__file__).resolve().parents[3] / "batcher-service" / "activities.py"
    # By a name of its own: the other service has a module of this name too.
    spec = importlib.util.spec_from_file_location("batcher_service_activities", file)
    assert spec is not None
    assert spec.loader is not None
    activities = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(activities)
    opens: Callable[..., Any] = activities.open_sink
    return opens


@pytest.mark.parametrize("name", SINK_FIELDS)
async def test_an_option_reaches_the_sink_from_flags_and_in_a_child_process(
    name: str, open_sink: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: list[dict[str, Any]] = []

    def __init__(self: SqlSink, url: str, **options: Any) -> None:
        given.append(options)

    monkeypatch.setattr(SqlSink, "__init__", __init__)
    flags, wanted = OTHER[name]
    assert wanted != PARAMETERS[name].default
    settings = read("--sink", f"sqlite:///{tmp_path}/x.db", *flags)
    await open_sink(settings)
    for key, value in settings.to_environment().items():
        monkeypatch.setenv(key, value)
    await open_sink(load())
    defaults = {one: parameter.default for one, parameter in PARAMETERS.items() if one in SINK_FIELDS}
    assert given == [{**defaults, name: wanted}] * 2


async def test_the_console_needs_none_of_them(open_sink: Callable[..., Any]) -> None:
    assert isinstance(await open_sink(load({"tables": ["a"], "wal": False})), ConsoleSink)
