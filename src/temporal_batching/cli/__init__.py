"""The command line. `main` is the console script; everything else needs the extra ``cli``."""

from __future__ import annotations

import gc
import sys

__all__ = ["main"]

_NEEDED = ("typer", "rich", "pydantic", "pydantic_settings")


def main() -> None:
    """Runs ``temporal-batching``."""
    # Modules are never garbage: to look through them for some, again and again, takes a fifth of a command's start.
    gc.disable()
    try:
        from temporal_batching.cli.app import app
    except ModuleNotFoundError as err:
        if (err.name or "").partition(".")[0] not in _NEEDED:
            raise
        sys.exit(
            f"error: this command needs the package '{err.name}', which comes with the extra 'cli': "
            "pip install 'temporal-batching[cli]'"
        )
    gc.freeze()
    gc.enable()
    app(prog_name="temporal-batching")
