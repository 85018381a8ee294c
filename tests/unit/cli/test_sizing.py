"""What `size` and `savings` print, and what they refuse."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from temporal_batching.cli import sizing as command
from temporal_batching.cli.sizing_report import saved_as_json, saved_lines, sized_lines
from temporal_batching.settings import SettingsError, load
from temporal_batching.sizing import Load, Savings, estimate

LOAD = ("5000", "300", "1", "1")
TIMES = ("20ms", "10ms", "20ms")


async def test_the_json_has_the_load_the_policy_and_what_follows(capsys: pytest.CaptureFixture[str]) -> None:
    settings = load({"linger": "1s", "shards": "2"})
    assert await command._size(settings, LOAD, "activity", "batcher", TIMES, True) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["load"]["rate"] == 5000
    assert told["policy"]["linger"] == 1
    assert (told["shards"], told["bears"]) == (2, False)
    assert told["shards_needed"] == estimate(Load(rate=5_000, record_bytes=300), settings.policy()).shards


async def test_shards_that_are_too_few_or_more_than_enough_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    needed = estimate(Load(rate=5_000, record_bytes=300)).shards
    expected = {"1": f"1, too few: {needed} are needed, decided by: run length", "64": f"64; {needed} would do"}
    for shards, said in expected.items():
        await command._size(load({"shards": shards}), LOAD, "activity", "batcher", TIMES, False)
        (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("shards:")]
        assert line.partition(":")[2].strip() == said


@pytest.mark.parametrize(
    ("position", "text", "message"),
    [
        (0, "many", "--rate 'many': writes a second, such as 5000 or 0.5"),
        (0, "-1", "--rate -1.0: writes a second, more than 0 and at most 10,000,000"),
        (0, "nan", "--rate nan: writes a second, more than 0"),
        (1, "1", "--bytes 1: a whole number from 2 to 1,500,000"),
        (1, "1.2MB", "--bytes '1.2MB': a whole number of bytes, or a size such as 512KiB"),
        (1, "1MiB", "--bytes a request has 1,048,882 bytes in all, and a batch holds 1,048,576"),
        (2, "some", "--records 'some': a whole number"),
        (3, "0", "--gateways 0: a whole number from 1 to 10,000"),
    ],
)
async def test_a_load_out_of_its_range_names_its_option(position: int, text: str, message: str) -> None:
    given = list(LOAD)
    given[position] = text
    rate, size, records, gateways = given
    with pytest.raises(SettingsError) as raised:
        await command._size(load(), (rate, size, records, gateways), "activity", "batcher", TIMES, False)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("position", "text", "message"),
    [
        (0, "-1", "--database-time '-1': zero or more"),
        (0, "11m", "--database-time 660 s: from 0, at most 600 seconds"),
        (1, "0", "--call-time '0': more than zero"),
        (2, "soon", "--task-time 'soon': a duration such as 20s"),
    ],
)
async def test_a_time_out_of_its_range_names_its_option(position: int, text: str, message: str) -> None:
    times = list(TIMES)
    times[position] = text
    with pytest.raises(SettingsError) as raised:
        await command._size(load(), LOAD, "activity", "batcher", (times[0], times[1], times[2]), False)
    assert str(raised.value).startswith(message)


def test_each_argument_has_its_option() -> None:
    arguments = {*Load.__dataclass_fields__, "shards", "database", "call", "task", "since", "max_history_bytes"}
    assert set(command.OPTIONS) == arguments


SAVED = Savings(
    batcher="main",
    since=datetime(2026, 1, 31, tzinfo=UTC),
    until=datetime(2026, 2, 1, tzinfo=UTC),
    shards=2,
    runs=3,
    retention=timedelta(days=3),
    outcomes={"written": 990, "rejected": 10},
    by_way={"activity": 1_000},
    records=1_000,
    transactions=10,
    failed_flushes=1,
    largest_batch=100,
    events=500,
    history_bytes=3 * 1_048_576,
    actions={"activities": 11, "updates": 9},
    caller_actions=1_000,
)


def test_what_was_saved_is_in_the_fields_words() -> None:
    said = dict(saved_lines(SAVED))
    assert said["counted"] == "since 2026-01-31 00:00:00+00:00: 2 shards, 3 runs"
    assert said["requests"] == "990 written, 10 rejected"
    assert said["transactions"] == "10 instead of 990: 980 were not needed"
    assert said["records in one"] == "100.0; at most 100 requests"
    assert said["failed flushes"] == "1, each retried"
    assert said["history"] == "500 events, 3 MiB"
    assert said["without a batcher"] == "1,000 by one activity each: batching costs 2.0% more"
    assert "not counted" not in said
    told = json.loads(saved_as_json(SAVED))
    assert (told["retention"], told["transactions_saved"], told["whole"]) == (259_200, 980, True)


def test_what_is_missing_is_said() -> None:
    missing = {
        "retention": timedelta(hours=12),
        "runs_left_out": 1,
        "runs_deleted": 2,
        "unreadable": 3,
    }
    saved = Savings(**{**vars(SAVED), **missing})
    assert [text for name, text in saved_lines(saved) if name == "not counted"] == [
        "runs that ended more than 12h ago: Temporal keeps them no longer",
        "1 older run: more bytes are read with --max-history",
        "2 runs that Temporal deleted meanwhile",
        "3 messages that this client cannot read",
    ]
    assert not saved.is_whole


def test_a_time_in_which_nothing_was_written_divides_by_nothing() -> None:
    empty = Savings(batcher="main", since=SAVED.since, until=SAVED.until, shards=1, runs=1)
    said = dict(saved_lines(empty))
    assert said["requests"] == "none"
    assert said["records in one"].startswith("0.0")


def test_parcels_cost_fewer_actions_than_direct_writes() -> None:
    load = Load(rate=5_000, record_bytes=300, via="write_many")
    said = dict(sized_lines(load, estimate(load)))
    assert said["without a batcher"].startswith("5,000/s: batching costs 9")
    assert said["without a batcher"].endswith("% less")
