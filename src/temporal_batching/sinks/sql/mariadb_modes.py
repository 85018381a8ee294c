"""How sessions of MariaDB are set. It imports no driver."""

from __future__ import annotations

SQL_MODES = (
    # A value that does not fit is an error, not another value.
    "STRICT_TRANS_TABLES",
    "STRICT_ALL_TABLES",
    "ERROR_FOR_DIVISION_BY_ZERO",
    "NO_ZERO_DATE",
    "NO_ZERO_IN_DATE",
    "NO_ENGINE_SUBSTITUTION",
    # 0 in a column that counts up is 0.
    "NO_AUTO_VALUE_ON_ZERO",
)

INIT_COMMAND = f"SET SESSION sql_mode = '{','.join(SQL_MODES)}', time_zone = '+00:00'"
"""What each connection of an engine that is made for a URL begins with."""

OWNED = "temporal_batching_owned"
"""The option of an engine whose connections nobody else uses."""
