"""The tests have the folders of the package, so that a module's unit tests are found by its path."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent
PACKAGE = HERE.parents[1] / "src" / "temporal_batching"


def test_every_folder_of_unit_tests_is_a_package_of_the_library() -> None:
    folders = {path.parent.relative_to(HERE) for path in HERE.rglob("test_*.py")}
    assert [str(folder) for folder in sorted(folders) if not (PACKAGE / folder / "__init__.py").exists()] == []


def test_every_folder_of_unit_tests_is_a_package_itself() -> None:
    """Two modules of one name would otherwise be one to pytest."""
    folders = {path.parent for path in HERE.rglob("test_*.py")}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []
