"""Every Python block of the documents, and every example in a docstring, is type-checked as readers have it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.acceptance.conftest import ROOT

pytestmark = pytest.mark.documents

NEEDED = {
    "audit",
    "batching_runtime",
    "BatchClient",
    "BatchPolicy",
    "BatchWriter",
    "BatcherHandle",
    "BatcherPlugin",
    "Sink",
    "SqlSink",
    "TableRule",
    "check_sink",
    "running_batcher",
}
"""What has an example in its docstring."""

FRAGMENTS = ["docs/how-to/change-the-workflow.md"]
"""Pages whose blocks are parts of a module."""

MODULES = {("README.md", 0): "payments", ("docs/how-to/write-a-sink.md", 0): "duck_sink"}
"""Blocks that another block imports."""

SHORT_FUNCTIONS = "# mypy: allow-untyped-defs"
"""An example of a test need not say that it returns None."""

FENCED = re.compile(r"^```python\b(?: title=\"(\w+)\.py\")?[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def in_documents() -> Iterator[tuple[str, str]]:
    """The name of a module for each block, and the block."""
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        page = path.relative_to(ROOT).as_posix()
        if page in FRAGMENTS:
            continue
        for number, (title, code) in enumerate(FENCED.findall(path.read_text(encoding="utf-8"))):
            own = re.sub(r"\W", "_", f"{page}_{number}")
            yield title or MODULES.get((page, number), own), code


def in_docstrings() -> Iterator[tuple[str, str]]:
    """The class or function that has an example, and the example."""
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                for _, code in FENCED.findall(_unindented(ast.get_docstring(node) or "")):
                    yield node.name, code


def _unindented(docstring: str) -> str:
    """With the fences of an indented section at the start of their lines."""
    return re.sub(r"^ {4}", "", docstring, flags=re.MULTILINE)


def test_what_readers_meet_first_has_an_example() -> None:
    assert NEEDED - {name for name, _ in in_docstrings()} == set()


def test_every_example_is_type_checked(tmp_path: Path) -> None:
    examples = [*in_documents(), *((f"example_of_{name}", code) for name, code in in_docstrings())]
    assert len({name for name, _ in examples}) == len(examples)
    for path in (ROOT / "examples" / "embeddings").glob("*.py"):  # some of them are shown, and import the others
        (tmp_path / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    for name, code in examples:
        (tmp_path / f"{name}.py").write_text(f"{code}\n{SHORT_FUNCTIONS}\n", encoding="utf-8")
    # The same options as `make lint`: with others mypy would check every library anew, here and there.
    options = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
    command = [sys.executable, "-m", "mypy", *options, "--no-error-summary", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
