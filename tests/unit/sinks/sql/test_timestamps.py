"""The quick look at a timestamp lets through what the pattern does, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_batching.sinks.sql import values
from temporal_batching.sinks.sql.values import BadValue, timestamp_with_zone, timestamp_without_zone


def test_every_usual_form_is_one_of_the_pattern() -> None:
    assert values._USUAL_TIMESTAMPS
    for form in values._USUAL_TIMESTAMPS:
        assert values._TIMESTAMP.fullmatch(form.decode())


@given(st.datetimes(timezones=st.just(UTC)))
def test_what_programs_write_is_read_as_it_is(moment: datetime) -> None:
    assert timestamp_with_zone(moment.isoformat()) == moment
    assert timestamp_with_zone(moment.isoformat().lower()) == moment


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-31T09:30:00,123456",
        "2026-01-31 09",
        "20260131T093000",
        "2026-W05-6T09:30:00",
        "\u0662026-01-31T09:30:00",
    ],
)
def test_what_only_python_reads_is_rejected(text: str) -> None:
    with pytest.raises(BadValue):
        timestamp_without_zone(text)
