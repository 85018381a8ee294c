"""Writes the exact versions of everything that `uv.lock` resolved into pyproject.toml, as constraints.

The lock file itself is not committed: it records from which index each file came. The constraints give the same
versions from any index. Run `make pins` after changing dependencies, or to take newer versions:

    python scripts/pins.py [--check | --clear]
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^constraint-dependencies = \[.*?\]\n", re.DOTALL | re.MULTILINE)


def pins(lock: str) -> list[str]:
    """``name==version`` of every package that comes from an index.

    A package that is locked at several versions, for different Pythons or platforms, stays without a pin: one
    constraint would take away what the other needs.
    """
    versions: dict[str, set[str]] = {}
    for package in tomllib.loads(lock)["package"]:
        if "registry" in package["source"]:
            versions.setdefault(package["name"], set()).add(package["version"])
    return [f"{name}=={found.pop()}" for name, found in sorted(versions.items()) if len(found) == 1]


def with_pins(project: str, names: list[str]) -> str:
    lines = "".join(f'    "{name}",\n' for name in names)
    block = f"constraint-dependencies = [\n{lines}]\n" if names else "constraint-dependencies = []\n"
    return BLOCK.sub(block, project, count=1)


def main() -> int:
    file = ROOT / "pyproject.toml"
    before = file.read_text(encoding="utf-8")
    # Cleared first, for old pins would keep the resolver from newer versions.
    found = [] if "--clear" in sys.argv[1:] else pins((ROOT / "uv.lock").read_text(encoding="utf-8"))
    after = with_pins(before, found)
    if "--check" in sys.argv[1:]:
        if before != after:
            print("pyproject.toml does not pin what uv.lock resolved: run `make pins`", file=sys.stderr)
        return int(before != after)
    file.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
