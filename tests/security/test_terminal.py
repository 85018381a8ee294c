"""Whatever a request brings, a terminal and a log show it as text: nothing of it is obeyed, and no line is forged."""

from __future__ import annotations

import importlib
import io
import json
import logging
from pathlib import Path
from types import ModuleType

import pytest
from rich.markup import escape

from temporal_batching import BatcherStats, ConsoleSink, Record, WriteRequest
from temporal_batching.cli import console, monitor
from temporal_batching.cli.console import CommandError, fail
from temporal_batching.cli.logs import TextLines
from temporal_batching.monitoring.watch import changes
from temporal_batching.sinks.base import Batch
from temporal_batching.terminal import printable

HOSTILE = [
    "\x1b[2J\x1b[31mred",
    "\x1b]0;a title\x07",
    "\x9b31mC1",
    "over\rwritten",
    "back\b\b\bspaced",
    "\x7fdeleted",
    "right\u202eto left",
    "line\u2028separated",
    "\x85next line",
]
MARKUP = "[bold red]loud[/] [/nothing] [link=http://evil]here[/link]"
FORGED = "harmless\n2026-01-31 ERROR all is lost"


def is_clean(text: str) -> bool:
    """Nothing to obey; and where it was markup, all of it is there to be read."""
    return all(line.isprintable() for line in text.split("\n")) and ("loud" not in text or MARKUP in text)


@pytest.fixture(params=[False, True], ids=["piped", "terminal"])
def screen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a command prints, to a pipe or to a terminal; colours are the terminal's own escapes, so there are none."""
    stream = io.StringIO()
    for one in (console.out, console.err):
        monkeypatch.setattr(one, "_file", stream)
        monkeypatch.setattr(one, "_force_terminal", request.param)
        monkeypatch.setattr(one, "_color_system", None)
        monkeypatch.setattr(one, "_width", 400)
    return stream


@pytest.mark.parametrize("text", HOSTILE)
async def test_the_console_sink_prints_text(text: str) -> None:
    stream = io.StringIO()
    request = WriteRequest(f"id{text}", [Record(f"t{text}", {f"c{text}": [text, {text: text}]})], key=f"k{text}")
    await ConsoleSink(stream).write(Batch([request, request], id=f"main-0/1{text}"))
    printed = stream.getvalue()
    assert is_clean(printed)
    assert len(printed.splitlines()) == 4
    values = printed.splitlines()[2].partition("=")[2]
    assert json.loads(values) == [text, {text: text}]


async def test_the_console_sink_keeps_every_request_on_lines_of_its_own() -> None:
    stream = io.StringIO()
    request = WriteRequest(FORGED, [Record(FORGED, {FORGED: FORGED})], key=FORGED)
    await ConsoleSink(stream).write(Batch([request]))
    assert len(stream.getvalue().splitlines()) == 3


@pytest.mark.parametrize("text", [*HOSTILE, MARKUP])
def test_a_monitor_shows_a_sinks_words_as_words(text: str, screen: io.StringIO) -> None:
    before = BatcherStats(text, 0, run_id=text, breaker=text)
    now = BatcherStats(text, 0, run_id=text, breaker="open", sink_error=text, policy={"x": text})
    monitor.show([before, now])
    for event in changes(before, now):
        console.out.print(escape(event))
    shown = screen.getvalue()
    assert is_clean(shown)
    assert "sink unavailable: " in shown
    assert json.loads(monitor.as_json([now]))[0]["sink_error"] == text
    assert monitor.as_json([now]).isascii()


def test_a_monitors_news_are_one_line_each() -> None:
    (news,) = changes(BatcherStats("main", 0), BatcherStats("main", 0, breaker="open", sink_error=FORGED))
    assert "\n" not in news


@pytest.fixture
def starter(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "main-service"))
    return importlib.import_module("starter")


@pytest.mark.parametrize("text", [*HOSTILE, MARKUP])
def test_the_starter_shows_ids_and_reasons_as_text(text: str, screen: io.StringIO, starter: ModuleType) -> None:
    starter.report([starter.Finished("w", f"id{text}", None, "WriteRejected", f"the database said {text}")])
    shown = screen.getvalue()
    assert is_clean(shown)
    assert "the database said" in shown


@pytest.mark.parametrize("text", [*HOSTILE, MARKUP])
def test_an_error_is_shown_as_text(text: str, screen: io.StringIO) -> None:
    with pytest.raises(SystemExit):
        fail(CommandError(f"refused: {text}"))
    shown = screen.getvalue()
    assert is_clean(shown)
    assert shown.startswith("error: refused: ")
    assert shown.count("\n") == 1


@pytest.mark.parametrize("text", [*HOSTILE, MARKUP, FORGED])
def test_a_log_line_is_one_line_of_text(text: str) -> None:
    formatter = TextLines()
    record = logging.LogRecord("a.logger", logging.WARNING, __file__, 1, "said: %s", (text,), None)
    line = formatter.format(record)
    assert line.isprintable()
    assert line.endswith(f"WARNING a.logger: said: {printable(text)}")


def test_a_stack_in_the_log_keeps_its_lines_and_nothing_else() -> None:
    formatter = TextLines()
    try:
        raise ValueError("".join(HOSTILE))
    except ValueError as err:
        record = logging.LogRecord("x", logging.ERROR, __file__, 1, "failed", None, (type(err), err, err.__traceback__))
    text = formatter.format(record)
    assert is_clean(text)
    assert "\n  File " in text
