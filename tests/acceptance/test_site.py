"""The documentation site: it builds, has every page and every public name, and a broken reference stops it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
from scripts.docs import GENERATED
from tests.acceptance.conftest import ROOT

import temporal_batching
import temporal_batching.audit
import temporal_batching.monitoring
import temporal_batching.sinks
import temporal_batching.sizing
import temporal_batching.testing
from temporal_batching.cli.app import app

pytestmark = pytest.mark.documents


def build(directory: Path, *, added: str = "") -> subprocess.CompletedProcess[str]:
    """Builds the site of a copy of what it is made from, with something added to a page."""
    shutil.copytree(ROOT / "docs", directory / "docs")
    with (directory / "docs/explanation/design.md").open("a", encoding="utf-8") as page:
        page.write(added)
    for name in ("zensical.toml", "CHANGELOG.md"):
        shutil.copy(ROOT / name, directory)
    (directory / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "docs.py", directory / "scripts")
    (directory / "src").symlink_to(ROOT / "src")
    return subprocess.run(
        [sys.executable, "scripts/docs.py"], cwd=directory, capture_output=True, text=True, timeout=120
    )


def pages() -> list[str]:
    """Every page that a reader can choose."""

    def below(entries: list[Any]) -> list[str]:
        found = [value for entry in entries for value in entry.values()]
        return [page for value in found for page in (below(value) if isinstance(value, list) else [value])]

    return below(tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"])


def test_the_site_builds_and_has_every_page(tmp_path: Path) -> None:
    done = build(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in pages():
        name = page.removesuffix(".md").removesuffix("index")
        assert (tmp_path / "build/site" / name / "index.html").exists(), page
    commands = (tmp_path / "build/site/reference/commands/index.html").read_text(encoding="utf-8")
    group: Any = typer.main.get_command(app)
    for command in group.commands:
        assert f'id="{command}"' in commands


def test_every_page_can_be_chosen() -> None:
    written = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert written | set(GENERATED) == set(pages())
    assert written & set(GENERATED) == set()


def test_every_broken_reference_is_found(tmp_path: Path) -> None:
    broken = ["[no page](nowhere.md)", "[no heading](glossary.md#nowhere)", "[`X`][temporal_batching.X]"]
    done = build(tmp_path, added="\n\n".join(["", *broken, ""]))
    assert done.returncode != 0, done.stdout
    assert f"{len(broken)} issues found" in done.stdout + done.stderr


def test_the_documentation_of_a_name_that_does_not_exist_fails(tmp_path: Path) -> None:
    done = build(tmp_path, added="\n\n::: temporal_batching.X\n")
    assert done.returncode != 0, done.stdout


def test_the_reference_has_every_public_name() -> None:
    shown = {
        name
        for page in (ROOT / "docs" / "reference").glob("*.md")
        for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
    modules = (
        temporal_batching,
        temporal_batching.audit,
        temporal_batching.monitoring,
        temporal_batching.sizing,
        temporal_batching.testing,
    )
    public = {f"{module.__name__}.{name}" for module in modules for name in module.__all__}
    # Names for types, which have no page of their own.
    aliases = {"temporal_batching.WriteResult", "temporal_batching.sizing.Gateway", "temporal_batching.sizing.Via"}
    assert public - shown == aliases
