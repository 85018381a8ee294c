"""Where the example services are that the demo starts."""

from __future__ import annotations

from pathlib import Path

import temporal_batching

_PACKAGE = Path(temporal_batching.__file__).parent


def services_root() -> Path:
    """The directory that holds ``main-service`` and ``batcher-service``.

    A wheel ships them as package data, laid out as in the repository; an editable installation is the repository. No
    copy of them is kept for the demo, so what it shows is what one reads there.
    """
    shipped = _PACKAGE / "_demo"
    return shipped if shipped.is_dir() else _PACKAGE.parents[1]
