"""Figures as people read them."""

from __future__ import annotations

import math
from collections.abc import Mapping


def number(value: float) -> str:
    """Three digits that matter."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def milliseconds(latency: Mapping[str, float], quantile: str) -> float:
    """Of quantiles in seconds."""
    return 1000 * latency.get(quantile, 0.0)
