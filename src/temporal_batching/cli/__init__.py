"""The command line. `main` is the console script; everything else needs the extra ``cli``."""

from __future__ import annotations

import sys

__all__ = ["main"]

_NEEDED = ("typer", "rich", "pydantic", "pydantic_settings")


def main(command: str | None = None) -> None:
    """Runs ``temporal-batching``, or the one command that a service's script stands for.

    Args:
        command: The command; the process's arguments are then its options.
    """
    try:
        from temporal_batching.cli.app import app, command_named
    except ModuleNotFoundError as err:
        if (err.name or "").partition(".")[0] not in _NEEDED:
            raise
        sys.exit(
            f"error: this command needs the package '{err.name}', which comes with the extra 'cli': "
            "pip install 'temporal-batching[cli]'"
        )
    if command is None:
        app(prog_name="temporal-batching")
    else:
        command_named(command)(prog_name=sys.argv[0])
