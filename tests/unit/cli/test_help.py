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


def complete(words: str) -> list[str]:
    """What a shell is offered after these words."""
    asked = {"_TEMPORAL_BATCHING_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    return CliRunner().invoke(app, [], prog_name="temporal-batching", env=asked).output.split()


def test_a_shell_completes_commands_options_and_their_values() -> None:
    assert complete("temporal-batching dr") == ["drain"]
    assert complete("temporal-batching worker --ling") == ["--linger"]
    assert complete("temporal-batching demo --via ") == ["signal", "activity"]
    assert complete("temporal-batching size --via wr") == ["write_many"]
    assert complete("temporal-batching size --gateway ") == ["batcher", "local"]


@pytest.mark.parametrize("command", NAMES)
def test_every_value_of_an_option_is_named_as_people_write_it(command: str) -> None:
    """No type of Python, of Click or of Typer stands for a value."""
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "120"}).output
    words = set(shown.replace("[", " ").replace("]", " ").split())
    assert words.isdisjoint({"TEXT", "INTEGER", "FLOAT", "BOOLEAN", "PATH", "<str>", "<int>"})
