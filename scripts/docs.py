"""Builds the documentation site into build/site, and fails on a broken link or an unresolved reference.

The pages of docs/ are copied to build/docs, together with the pages that are generated: every command's help, the
settings, and the changelog.

    python scripts/docs.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STAGE = ROOT / "build" / "docs"
HELP_COLUMNS = "100"


def commands_page() -> str:
    """The help of the command ``temporal-batching`` and of each of its commands, as a terminal shows it."""
    import typer
    from typer.testing import CliRunner

    from temporal_batching.cli.app import app

    environment = {"COLUMNS": HELP_COLUMNS, "TERMINAL_WIDTH": HELP_COLUMNS, "NO_COLOR": "1", "TERM": "dumb"}
    group: Any = typer.main.get_command(app)

    def help_of(*names: str) -> str:
        shown = CliRunner().invoke(app, [*names, "--help"], prog_name="temporal-batching", env=environment)
        if shown.exit_code != 0:
            raise SystemExit(f"no help for {names}: {shown.output}")
        lines = "\n".join(line.rstrip() for line in shown.output.strip("\n").splitlines())
        return f"```text\n{lines}\n```\n"

    parts = ["# Commands\n", 'The commands need the extra `cli`: `pip install "temporal-batching[cli]"`.\n', help_of()]
    for name in group.commands:
        parts += [f"## {name}\n", help_of(name)]
    return "\n".join(parts)


def settings_page() -> str:
    """Every setting of a batcher, with its flag, variable, default and meaning."""
    from temporal_batching.settings import BatcherSettings, flag, load, variable

    defaults = load()
    values = {name: getattr(defaults, name) for name in BatcherSettings.model_fields}
    rows = [
        f"| `{name}` | {_flags(flag(name), values[name])} | `{variable(name)}` | {_cell(name, values[name])} "
        f"| {field.description} |"
        for name, field in BatcherSettings.model_fields.items()
    ]
    table = "\n".join(["| in the file | flag | variable | default | meaning |", "|---|---|---|---|---|", *rows])
    return (
        "# Settings\n\n"
        "A flag wins over the environment, the environment over a TOML file (`--config`, `BATCHING_CONFIG`), the file\n"
        "over the defaults. [Configure a batcher](../how-to/configure.md) shows their use; "
        "[`BatchPolicy`][temporal_batching.BatchPolicy]\nhas the range of each limit, and is the same in Python.\n\n"
        f"{table}\n\n"
        "Where Temporal is, and how to log in there, are Temporal's own settings: `TEMPORAL_ADDRESS`,\n"
        "`TEMPORAL_NAMESPACE`, `TEMPORAL_API_KEY`, profiles and TLS: "
        "[Run on Temporal Cloud](../how-to/temporal-cloud.md#connect).\n"
    )


def changelog_page() -> str:
    return (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


GENERATED: dict[str, Callable[[], str]] = {
    "reference/commands.md": commands_page,
    "reference/settings.md": settings_page,
    "reference/changelog.md": changelog_page,
}
"""Pages that are in the site and not in docs/."""


def stage() -> None:
    """Lays out what the site is built from."""
    shutil.rmtree(STAGE, ignore_errors=True)
    shutil.copytree(ROOT / "docs", STAGE)
    for name, page in GENERATED.items():
        (STAGE / name).write_text(page(), encoding="utf-8")


def main() -> int:
    # The generated pages show the defaults, not the settings of whoever builds them.
    for name in [name for name in os.environ if name.startswith(("BATCHING_", "TEMPORAL_"))]:
        del os.environ[name]
    stage()
    done = subprocess.run(["zensical", "build", "--strict", "--clean"], cwd=ROOT, env=_with_this_python())
    if done.returncode == 0:
        print(f"the site: {STAGE.parent.relative_to(ROOT)}/site/index.html")
    return done.returncode


def _with_this_python() -> dict[str, str]:
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def _flags(flag: str, default: Any) -> str:
    return f"`{flag}`, `--no-{flag[2:]}`" if isinstance(default, bool) else f"`{flag}`"


def _cell(name: str, value: Any) -> str:
    from temporal_batching.cli.options import SHOWN_DEFAULTS, as_people_write

    if name == "task_queue":
        return "`batcher-queue`; `batcher-queue-NAME` for a name other than `main`"
    if name == "tables":
        return "all tables"
    if name in ("health", "metrics"):
        return "nowhere"
    if name in ("deployment_name", "build_id"):
        return "none"
    text = SHOWN_DEFAULTS.get(name) or as_people_write(name, value)
    return f"`{text}`" if text else "Temporal's own"


if __name__ == "__main__":
    sys.exit(main())
