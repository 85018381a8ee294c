"""What a line of the log says: one line for each batch, ids as fields, and no value of a record."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from typing import Any

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCStatusCode

from temporal_batching.cli.logs import JsonLines, TextLines
from temporal_batching.contract import Outcome, RejectCode
from temporal_batching.errors import SinkUnavailable
from temporal_batching.logs import about, about_requests, lines_about, logger
from tests.support.flushes import Calls, FakeSink, flush_of, run, wire

SECRET = "a-value-of-a-record"


def lines(caplog: pytest.LogCaptureFixture, least: int = logging.INFO) -> list[tuple[str, dict[str, Any]]]:
    """Level and ids of each line."""
    return [(one.levelname, getattr(one, "batching", {})) for one in caplog.records if one.levelno >= least]


async def test_a_batch_that_is_settled_has_one_line(caplog: pytest.LogCaptureFixture) -> None:
    def one_rejected(batch: Any) -> list[Outcome]:
        rejected = Outcome.rejected(RejectCode.CONSTRAINT, f"{SECRET} is there already")
        return [rejected if request.request_id == "b" else Outcome.written() for request in batch]

    caplog.set_level(logging.DEBUG)
    await run(FakeSink(one_rejected), flush_of(wire("a", n=SECRET), wire("b", n=SECRET)))
    ((level, ids),) = lines(caplog)
    assert level == "INFO"
    assert isinstance(ids.pop("seconds"), float)
    assert ids == {
        "batch_id": "main-3/7",
        "batcher": "main",
        "shard": 3,
        "trigger": "count",
        "requests": 2,
        "records": 2,
        "outcomes": {"written": 1, "rejected": 1},
        "requeued": 0,
        "unknown": 0,
        "waited": 0.0,
        "attempt": 1,
    }
    text = caplog.records[-1].getMessage()
    assert text.startswith("Batch main-3/7 settled: shard 3, by count, 2 requests, 2 records: 1 written, 1 rejected; ")
    assert SECRET not in caplog.text


async def test_a_batch_of_which_nothing_is_settled_has_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await run(FakeSink(lambda batch: [Outcome.retry("busy") for _ in batch]), flush_of(wire("a", n=SECRET)))
    assert [level for level, _ in lines(caplog)] == ["WARNING"]
    assert "Batch main-3/7 not settled: shard 3, by count, 1 requests, 1 records: 1 to be retried" in caplog.text


async def test_a_flush_that_fails_leaves_its_line_to_the_shard(caplog: pytest.LogCaptureFixture) -> None:
    def down(_: Any) -> list[Outcome]:
        raise SinkUnavailable("down")

    caplog.set_level(logging.INFO)
    with pytest.raises(ApplicationError):
        await run(FakeSink(down), flush_of(wire("a", n=SECRET)))
    assert lines(caplog) == []


async def test_every_line_about_a_request_names_it_and_none_shows_a_value(caplog: pytest.LogCaptureFixture) -> None:
    def failing(batch: Any) -> list[Outcome]:
        if any(request.request_id == "broken" for request in batch):
            raise RuntimeError(f"cannot write {SECRET}")
        return [
            Outcome.rejected(RejectCode.TYPE, SECRET) if request.request_id == "dead" else Outcome.written()
            for request in batch
        ]

    dead = {**wire("dead", n=SECRET), "reply_to": []}
    damaged = {
        **wire("damaged"),
        "packed": "eA==",
        "holds": [1, 1],
        "bytes": 10,
        "digest": "0" * 64,
        "keys": [],
    }
    calls = Calls(lambda name: RPCStatusCode.UNAVAILABLE if name == "w-a" else None)
    caplog.set_level(logging.INFO)
    await run(FakeSink(failing), flush_of(wire("a", n=SECRET), wire("broken", n=SECRET), dead, damaged), calls)
    told = {ids.get("request_id"): (level, ids) for level, ids in lines(caplog)}
    assert set(told) == {"a", "broken", "dead", "damaged", None}
    for request_id in ("a", "broken", "dead", "damaged"):
        assert (told[request_id][1]["batch_id"], told[request_id][1]["shard"]) == ("main-3/7", 3)
    assert told["a"][1]["caller_workflow_id"] == "w-a"
    assert told["broken"][0] == "ERROR"
    assert SECRET not in caplog.text


def test_many_requests_of_a_line_are_bounded() -> None:
    assert about_requests(["a"], shard=0) == {"batching": {"request_id": "a", "shard": 0}}
    assert about_requests([], shard=0) == {"batching": {"shard": 0}}
    many = about_requests([f"r{n}" for n in range(1000)])["batching"]
    assert (many["request_ids"], many["requests"]) == (["r0", "r1", "r2", "r3", "r4"], 1000)


def record(message: str, *args: Any, **attributes: Any) -> logging.LogRecord:
    made = logging.LogRecord("a.logger", logging.WARNING, __file__, 1, message, args, None)
    vars(made).update(attributes)
    return made


def test_a_line_of_json_has_its_ids_as_fields() -> None:
    told = record(
        "said: %s",
        "a\nb\x1b[2J",
        temporal_workflow={"workflow_id": "batcher-main-0", "run_id": "r", "attempt": 7},
        **about(batch_id="main-0.3f9a2c71/17", shard=0),
    )
    text = JsonLines().format(told)
    assert text.isprintable()
    line = json.loads(text)
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "warning",
        "logger": "a.logger",
        "message": "said: a\nb\x1b[2J",
        "workflow_id": "batcher-main-0",
        "run_id": "r",
        "batch_id": "main-0.3f9a2c71/17",
        "shard": 0,
    }
    activity = record("m", temporal_activity={"workflow_id": "w", "workflow_run_id": "r", "activity_id": "5"})
    assert {"workflow_id": "w", "run_id": "r", "activity_id": "5"}.items() <= json.loads(
        JsonLines().format(activity)
    ).items()
    try:
        raise ValueError("what\nhappened")
    except ValueError:
        failed = record("failed")
        failed.exc_info = sys.exc_info()
    assert "ValueError: what\nhappened" in json.loads(JsonLines().format(failed))["exception"]


def test_a_line_of_json_has_the_span_that_it_was_written_in() -> None:
    pytest.importorskip("opentelemetry.sdk", reason="needs the extra opentelemetry")
    from tests.support.tracing import trace_of, tracer

    with tracer().start_as_current_span("at work") as span:
        line = json.loads(JsonLines().format(record("m")))
    assert (line["trace_id"], len(line["span_id"])) == (trace_of(span), 16)


def test_a_line_of_text_has_the_ids_that_its_words_have_not() -> None:
    told = record("Batch b-1 failed", temporal_workflow={"workflow_id": "w"}, **about(batch_id="b-1", request_id="r"))
    assert TextLines().format(told).endswith("a.logger: Batch b-1 failed request_id=r workflow_id=w")


def test_ids_of_a_block_are_those_of_its_lines_alone(caplog: pytest.LogCaptureFixture) -> None:
    with lines_about(batch_id="b", shard=1):
        logger.warning("inside", extra=about(request_id="r", shard=2))
    logger.warning("outside")
    assert [ids for _, ids in lines(caplog)] == [{"batch_id": "b", "shard": 2, "request_id": "r"}, {}]


@pytest.mark.parametrize(("style", "level"), [("json", "info"), ("text", "warning"), ("text", "debug")])
def test_the_log_of_a_process_has_its_level_and_its_form(style: str, level: str) -> None:
    program = f"""
import logging
from temporal_batching.cli.logs import log_to_stderr
from temporal_batching.logs import about, logger
log_to_stderr({level!r}, {style!r})
for one in ("debug", "info", "warning"):
    getattr(logger, one)("said", extra=about(request_id="r-1"))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    printed = [line for line in done.stderr.splitlines() if "said" in line]
    expected = ["debug", "info", "warning"][["debug", "info", "warning"].index(level) :]
    if style == "json":
        assert [(json.loads(line)["level"], json.loads(line)["request_id"]) for line in printed] == [
            (one, "r-1") for one in expected
        ]
    else:
        assert [line.split()[2] for line in printed] == [one.upper() for one in expected]
        assert all(line.endswith(": said request_id=r-1") for line in printed)
