"""What is said about an audit that cannot be made, and what a reader of its report can rely on."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.converter import DataConverter

from temporal_batching.audit import AuditReport, Violation
from temporal_batching.cli import audit_report as command
from temporal_batching.cli import connect as connecting
from temporal_batching.cli.audit_report import Scope
from temporal_batching.cli.connect import Target
from temporal_batching.cli.options import read_moment
from temporal_batching.errors import InvalidAudit
from temporal_batching.settings import SettingsError, load

CONVERTER = DataConverter()


def test_a_moment_is_a_duration_back_or_a_date() -> None:
    day = datetime(2026, 1, 31, tzinfo=UTC)
    assert read_moment("--since", "24h") == timedelta(days=1)
    assert read_moment("--since", "2026-01-31") == read_moment("--since", "2026-01-31T01:00+01:00") == day
    with pytest.raises(SettingsError, match="--since 'yesterday': a duration such as 24h, or a moment"):
        read_moment("--since", "yesterday")


def test_the_callers_converter_is_loaded_by_name() -> None:
    assert connecting.load_converter(f"{__name__}:CONVERTER") is CONVERTER
    for wrong, why in (("nowhere:x", "No module named 'nowhere'"), ("json:loads", "a function"), ("", "Empty module")):
        with pytest.raises(SettingsError, match=why):
            connecting.load_converter(wrong)


@pytest.mark.parametrize(
    ("sink", "scope", "why"),
    [
        ("console", {}, "the console keeps nothing to audit"),
        ("sqlite:///x.db", {"since": "1h", "complete": True}, "not together with --since"),
    ],
)
async def test_an_audit_that_makes_no_sense_is_refused_before_anything_is_read(
    sink: str, scope: dict[str, Any], why: str
) -> None:
    wanted = Scope(**{"query": None, "since": None, "complete": False, **scope})
    with pytest.raises(SettingsError, match=why):
        await command.audit_deployment(load({"sink": sink}), Target("127.0.0.1:1"), wanted, as_json=False)


async def test_the_callers_converter_reads_their_histories(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    used: list[DataConverter] = []

    async def audit(client: Client, *_: Any, **__: Any) -> AuditReport:
        used.append(client.data_converter)
        return _report(len(used) - 1)

    async def connect(*, data_converter: str, **_: Any) -> Client:
        return await Client.connect("127.0.0.1:1", lazy=True, data_converter=connecting.load_converter(data_converter))

    monkeypatch.setattr(connecting, "connect", connect)
    monkeypatch.setattr(command, "audit", audit)
    scope = Scope(None, None, False)
    settings, target = load({"sink": "sqlite:///x.db"}), Target(data_converter=f"{__name__}:CONVERTER")
    assert await command.audit_deployment(settings, target, scope, as_json=True) == 0
    assert await command.audit_deployment(settings, target, scope, as_json=True) == 1
    assert used == [CONVERTER, CONVERTER]
    assert len(capsys.readouterr().out.splitlines()) == 2


async def test_an_argument_that_is_invalid_is_named_as_its_option(monkeypatch: pytest.MonkeyPatch) -> None:
    async def connect(**_: Any) -> Client:
        return await Client.connect("127.0.0.1:1", lazy=True)

    async def audit(*_: Any, **__: Any) -> AuditReport:
        raise InvalidAudit("tables", "no unique key covers (x)")

    monkeypatch.setattr(connecting, "connect", connect)
    monkeypatch.setattr(command, "audit", audit)
    scope = Scope(None, None, False)
    with pytest.raises(SettingsError, match=r"--table: no unique key covers \(x\)"):
        await command.audit_deployment(load({"sink": "sqlite:///x.db"}), Target(), scope, as_json=False)


def _report(violations: int) -> AuditReport:
    return AuditReport(
        workflows=1,
        activities=1,
        requests=1,
        results={"written": 1},
        broken={"a rule": violations} if violations else {},
        violations=[Violation("a rule", f"r{n}\x1b[2J[red]", "why") for n in range(violations)],
        unchecked={"[bold]x": 2},
    )


def test_a_report_is_plain_lines_and_one_for_each_violation(capsys: pytest.CaptureFixture[str]) -> None:
    command._show(_report(command.SHOWN + 3))
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == "promises:              broken: 103 x a rule"
    assert "not checked:           2 x [bold]x" in said.out.splitlines()
    lines = said.err.splitlines()
    assert lines[0] == r"violation: a rule: r0\x1b[2J[red]: why"
    assert lines[-1] == "violation: ... and 3 more"
    assert len(lines) == command.SHOWN + 1


def test_a_report_as_json_has_all_of_it_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    command._print_json(_report(200))
    (line,) = capsys.readouterr().out.splitlines()
    report = json.loads(line)
    assert (report["holds"], report["broken"], len(report["violations"])) == (False, {"a rule": 200}, 200)
    assert report["violations"][0] == {"rule": "a rule", "request_id": "r0\x1b[2J[red]", "detail": "why"}
