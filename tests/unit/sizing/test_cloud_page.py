"""What the page on Temporal Cloud says that a batcher costs is what the formulas say."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest

from temporal_batching import BatchPolicy
from temporal_batching.cli.sizing_report import show_number
from temporal_batching.metrics.shards import STATS_INTERVAL
from temporal_batching.policy import MAX_REQUEST_BYTES
from temporal_batching.settings import parse_duration, parse_whole
from temporal_batching.sizing import Load, estimate
from temporal_batching.sizing.load import Via
from temporal_batching.sizing.needs import MAX_UPDATES_IN_FLIGHT

PAGE = (Path(__file__).parents[3] / "docs" / "how-to" / "temporal-cloud.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.partition("| writes/s | way in |")[2].partition("\n\n")[0].splitlines()[2:]
]
MONTH = timedelta(days=30).total_seconds()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join(row[:5]))
def test_an_example_of_the_page_is_what_is_computed(row: list[str]) -> None:
    rate, via, gateways, linger, most = row[:5]
    load = Load(
        rate=parse_whole(rate),
        record_bytes=300,
        via=cast(Via, via.strip("`")),
        gateways=1 if gateways == "-" else parse_whole(gateways),
    )
    duration: timedelta = parse_duration(linger)
    sized = estimate(load, BatchPolicy(linger=duration, max_batch_size=parse_whole(most)))
    months = [show_number(actions * MONTH / 1e6) for actions in (sized.actions, sized.actions_direct)]
    assert row[5:] == [show_number(sized.actions), show_number(sized.actions_direct), *months]


def test_the_page_has_examples_of_every_way_in() -> None:
    assert {row[1].strip("`") for row in ROWS} == {"activity", "signal", "write_many"}


def test_the_other_figures_are_those_of_the_code() -> None:
    assert f"| updates in flight of one workflow | {MAX_UPDATES_IN_FLIGHT} |" in PAGE
    assert f"may have {MAX_REQUEST_BYTES:,} bytes" in PAGE
    asked = 2 * MONTH / STATS_INTERVAL.total_seconds()
    assert f"{asked / 1e6:.2f}\n  million in 30 days" in PAGE
    assert f"`retry_max` ({BatchPolicy().retry_max.total_seconds():g} seconds)" in PAGE
