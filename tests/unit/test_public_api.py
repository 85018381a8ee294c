"""What users import is complete and light, and the library's modules depend on each other in one direction."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import temporal_batching

PACKAGE = Path(temporal_batching.__file__).parent
MODULES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}

# From the bottom to the top: a module imports from its own floor or from those below it.
FLOORS = [
    {"contract"},
    {"collector", "errors", "logs", "policy", "process_exit", "redaction", "routing", "terminal", "tracing", "web_ui"},
    {"wire", "sinks"},
    {"contents", "opentelemetry"},
    {"batcher", "flush", "gateway", "metrics", "writers"},
    {"health"},
    {"flush_plugin", "plugin", "serving"},
    {"audit", "monitoring", "settings", "sizing", "table_settings", "testing"},
    {"cli"},
    {"service"},
]


def statements(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those under `if TYPE_CHECKING:`, which no program runs."""
    for child in ast.iter_child_nodes(tree):
        if not (isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING"):
            yield child
            yield from statements(child)


def imported(path: Path) -> set[str]:
    """This library's modules that a file imports, when it is loaded or later."""
    found: set[str] = set()
    for node in statements(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively, which this test does not follow"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.startswith("temporal_batching."):
                short = name.removeprefix("temporal_batching.")
                parent = short.rpartition(".")[0]
                # `from package import name` means a module of the package, or something in its `__init__`.
                meant = (short, f"{short}.__init__", parent, f"{parent}.__init__")
                found.add(next((module for module in meant if module in MODULES), "__init__"))
    return found


REACHING_A_SHARD = {"batcher.shards", "batcher.handle"}
"""What either side uses to reach a shard: names and messages, nothing of how a shard works inside."""


@cache
def graph() -> dict[str, set[str]]:
    """What each module imports of this library."""
    return {name: imported(path) - {name} for name, path in MODULES.items()}


def floor(module: str) -> int | None:
    return next((n for n, floor in enumerate(FLOORS) if module.split(".")[0] in floor), None)


def test_every_public_name_is_there() -> None:
    for name in temporal_batching.__all__:
        assert getattr(temporal_batching, name) is not None
    assert temporal_batching.__all__ == sorted(set(temporal_batching.__all__))


def test_what_can_be_imported_is_what_is_promised() -> None:
    assert set(temporal_batching._HOME_OF) == set(temporal_batching.__all__)
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (typed,) = [n for n in tree.body if isinstance(n, ast.If) and getattr(n.test, "id", "") == "TYPE_CHECKING"]
    for_type_checkers = {a.name for n in typed.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert for_type_checkers == set(temporal_batching.__all__)


@pytest.mark.parametrize("name", sorted(temporal_batching.__all__))
def test_a_public_name_lives_where_its_class_says(name: str) -> None:
    value = getattr(temporal_batching, name)
    if isinstance(value, type):
        assert getattr(import_module(value.__module__), name) is value


def test_there_is_nothing_else() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = temporal_batching.Nothing


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").exists()


@pytest.mark.parametrize(
    "program",
    [
        "import temporal_batching",
        "from temporal_batching import BatchWriter, Record, WriteRejected",
        "from temporal_batching import *\nimport temporal_batching.flush.activity",
        "from temporal_batching import BatcherPlugin, BatchClient, MemorySink, ConsoleSink",
    ],
)
def test_nobody_loads_what_the_own_use_does_not_need(program: str) -> None:
    # A star import takes SqlSink too, so it may load SQLAlchemy; still no driver and nothing of the command line.
    heavy = {"opentelemetry", "psycopg", "typer", "rich", "pydantic_settings"} | (
        {"sqlalchemy"} if "*" not in program else set()
    )
    report = f"{program}\nimport sys\nprint(*sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == ""


def test_a_workflow_that_writes_loads_neither_the_client_nor_the_workers_side() -> None:
    report = (
        "from temporal_batching import BatchWriter\nimport sys\nprint(*[m for m in sys.modules if 'batching.' in m])"
    )
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True, timeout=60)
    loaded = {name.removeprefix("temporal_batching.") for name in done.stdout.split()}
    assert "writers.writer" in loaded
    assert not {name for name in loaded if name.split(".")[0] in ("batcher", "flush", "gateway", "plugin", "sinks")}
    assert "writers.client" not in loaded


def test_every_module_has_its_floor() -> None:
    assert [m for m in MODULES if floor(m) is None and m != "__init__"] == []


def test_imports_point_one_way() -> None:
    upwards = [
        f"{module} imports {target}"
        for module, targets in graph().items()
        for target in targets
        if target != "__init__" and module != "__init__" and (floor(module) or 0) < (floor(target) or 0)
    ]
    assert upwards == []


def test_imports_make_no_circle() -> None:
    tuple(TopologicalSorter(graph()).static_order())  # raises CycleError with the circle


def test_the_contract_imports_nothing_of_ours() -> None:
    assert graph()["contract"] == set()


def test_the_two_sides_meet_only_in_the_contract() -> None:
    """The caller's side and the shard's side can be released apart: neither knows the other's inside."""

    def modules(*folders: str) -> set[str]:
        return {name for name in MODULES if name.split(".")[0] in folders}

    callers, shard = modules("writers"), modules("batcher", "flush") - REACHING_A_SHARD
    for module in callers:
        assert not graph()[module] & shard, module
    for module in shard:
        assert not graph()[module] & callers, module


def test_only_the_sql_sink_knows_a_database() -> None:
    drivers = {"sqlalchemy", "psycopg", "sqlite3"}
    for name, path in MODULES.items():
        roots = set()
        for node in statements(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                roots |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                roots.add((node.module or "").split(".")[0])
        if not name.startswith(("sinks.sql", "cli.", "audit.", "testing.servers")):
            assert not roots & drivers, name


PUBLIC = {
    "temporal_batching",
    *(
        f"temporal_batching.{name}"
        for name in ("audit", "health", "metrics", "monitoring", "service", "sinks", "sizing", "testing")
    ),
}
SERVICES = [
    path for service in ("main-service", "batcher-service") for path in (PACKAGE.parents[1] / service).glob("*.py")
]


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_example_services_import_public_names_only(path: Path) -> None:
    for node in statements(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("temporal_batching"):
            assert node.module in PUBLIC
            assert {alias.name for alias in node.names} <= set(import_module(node.module).__all__)
        elif isinstance(node, ast.Import):
            assert not any(alias.name.startswith("temporal_batching") for alias in node.names)


@pytest.mark.parametrize("service", ["main-service", "batcher-service"])
def test_a_services_worker_is_short(service: str) -> None:
    worker = (PACKAGE.parents[1] / service / "worker.py").read_text(encoding="utf-8")
    assert len(worker.split("@command", 1)[1].splitlines()) <= 30
