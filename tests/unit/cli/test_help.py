"""A command's help names values as people write them."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from temporal_batching.cli.app import COMMANDS, app

NAMES = [command.__name__.replace("_", "-") for command in COMMANDS]


@pytest.mark.parametrize("command", [None, *NAMES])
def test_help_shows_no_python_types_and_sizes_as_people_write_them(command: str | None) -> None:
    done = CliRunner().invoke(app, [*([command] if command else []), "--help"], env={"COLUMNS": "120"})
    assert done.exit_code == 0
    assert "<bool>" not in done.output
    assert "1048576" not in done.output
    if command == "worker":
        assert "1MiB" in done.output


def test_the_commands_are_those_of_the_help_and_complete_in_a_shell() -> None:
    assert list(typer.main.get_group(app).commands) == NAMES
    assert "--install-completion" in CliRunner().invoke(app, ["--help"]).output
