"""`ConsoleSink` prints what would be written, clean in a pipe, and each id once."""

from __future__ import annotations

import io
import sys

import pytest

from temporal_batching.contract import Record, Trigger, WriteRequest
from temporal_batching.errors import SinkUnavailable
from temporal_batching.sinks import Batch, ConsoleSink


def entry(number: int, *, key: str = "", **values: object) -> WriteRequest:
    return WriteRequest(f"r{number}", [Record("entries", {"id": number, **values})], key=key)


async def test_a_batch_is_a_few_plain_lines() -> None:
    out = io.StringIO()
    pair = WriteRequest(
        "pair", [Record("entries", {"amount": "9.50"}), Record("notes", {"text": "caf\u00e9", "n": None})]
    )
    await ConsoleSink(out).write(Batch([entry(1, key="a-1"), pair], id="main-0/17", trigger=Trigger.LINGER))
    assert out.getvalue() == (
        "batch main-0/17  trigger=linger  2 requests, 3 records\n"
        "  r1  key=a-1\n"
        "    entries  id=1\n"
        "  pair\n"
        '    entries  amount="9.50"\n'
        '    notes  text="caf\u00e9" n=null\n'
    )


async def test_what_is_not_printed_says_why() -> None:
    out = io.StringIO()
    sink = ConsoleSink(out)
    await sink.write(Batch([entry(1)], id="main-0/1"))
    out.truncate(0)
    out.seek(0)
    other = WriteRequest("r1", [Record("entries", {"id": 5})])
    outcomes = await sink.write(Batch([entry(1), other, entry(2), entry(2)], id="main-0/2"))
    assert [o.kind.value for o in outcomes] == ["duplicate", "rejected", "written", "duplicate"]
    assert out.getvalue() == (
        "batch main-0/2  trigger=count  4 requests, 1 record\n"
        "  r1  duplicate\n"
        "  r1  rejected (id_reused)\n"
        "  r2\n"
        "    entries  id=2\n"
        "  r2  duplicate\n"
    )


async def test_the_same_batch_again_is_written() -> None:
    sink = ConsoleSink(io.StringIO())
    for _ in range(2):
        (outcome,) = await sink.write(Batch([entry(1)], id="main-0/1"))
        assert outcome.kind.value == "written"


async def test_its_memory_is_bounded() -> None:
    sink = ConsoleSink(io.StringIO(), remember=2)
    await sink.write(Batch([entry(n) for n in range(3)], id="main-0/1"))
    outcomes = await sink.write(Batch([entry(n) for n in range(3)], id="main-0/2"))
    assert [o.kind.value for o in outcomes] == ["written", "duplicate", "duplicate"]


async def test_a_terminal_that_knows_only_ascii_gets_escapes_and_no_control_characters() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    request = WriteRequest("r\x1b[2J", [Record("t", {"v": "\u00e9\x1b[2J", "w": "\ud800"})])
    await ConsoleSink(out).write(Batch([request], id="main-0/1"))
    printed = raw.getvalue().decode("ascii")
    assert "\x1b" not in printed
    assert "\\xe9" in printed


async def test_a_closed_pipe_is_an_outage_and_nothing_counts_as_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    sink = ConsoleSink()
    monkeypatch.setattr(sys, "stdout", closed)
    with pytest.raises(SinkUnavailable) as caught:
        await sink.write(Batch([entry(1)], id="main-0/1"))
    assert not caught.value.in_doubt
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    (outcome,) = await sink.write(Batch([entry(1)], id="main-0/2"))
    assert outcome.kind.value == "written"


async def test_past_its_deadline_a_request_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    late = WriteRequest("late", [Record("t", {"v": 1})], expires_at=1.0)
    (outcome,) = await ConsoleSink().write(Batch([late], id="main-0/1"))
    assert outcome.kind.value == "expired"
    assert capsys.readouterr().out.splitlines()[1:] == ["  late  expired"]
