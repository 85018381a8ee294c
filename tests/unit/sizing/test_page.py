"""The table of the documents is what the formulas say."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest

from temporal_batching import BatchPolicy
from temporal_batching.cli.sizing_report import show_bytes, show_number, show_seconds
from temporal_batching.settings import parse_duration, parse_whole
from temporal_batching.sizing import Load, estimate
from temporal_batching.sizing.load import Via

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "size.md"
HEADER = "| writes | bytes | way in | gateways | linger | `max_batch_size` | "
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.read_text(encoding="utf-8").partition(HEADER)[2].partition("\n\n")[0].splitlines()[2:]
]


def computed(given: list[str]) -> list[str]:
    """The cells that follow from the first six of a row."""
    rate, record_bytes, via, gateways, linger, most = given
    load = Load(
        rate=parse_whole(rate),
        record_bytes=parse_whole(record_bytes),
        via=cast(Via, via.strip("`")),
        gateways=1 if gateways == "-" else parse_whole(gateways),
    )
    duration: timedelta = parse_duration(linger)
    sized = estimate(load, BatchPolicy(linger=duration, max_batch_size=parse_whole(most)))
    return [
        f"{sized.shards}",
        show_number(sized.requests_per_batch),
        show_number(sized.transactions),
        show_number(sized.updates + sized.signals),
        show_bytes(sized.history_bytes),
        f"{show_seconds(sized.run_seconds)} ({sized.run_ends_by})",
        show_number(sized.actions),
    ]


def test_the_page_has_examples() -> None:
    assert len(ROWS) >= 8


@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join(row[:6]))
def test_an_example_of_the_page_is_what_is_computed(row: list[str]) -> None:
    assert row[6:] == computed(row[:6])
