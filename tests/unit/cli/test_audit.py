"""What is said about an audit that cannot be made, and what a reader of its report can rely on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.converter import DataConverter

from temporal_batching import TableRule
from temporal_batching.audit.check import Findings
from temporal_batching.audit.judge import Span, Violation, out_of_order
from temporal_batching.cli import audit as command
from temporal_batching.cli import connect as connecting
from temporal_batching.cli.audit import Report, Scope, read_moment, read_rules
from temporal_batching.cli.options import Target
from temporal_batching.settings import SettingsError, load

NOW = 1_800_000_000.0
CONVERTER = DataConverter()


def test_a_moment_is_a_duration_back_or_a_date() -> None:
    assert read_moment(None, now=NOW) == 0.0
    assert read_moment("24h", now=NOW) == NOW - 86_400
    assert read_moment("2026-01-31", now=NOW) == read_moment("2026-01-31T01:00+01:00", now=NOW) == 1_769_817_600.0
    with pytest.raises(SettingsError, match="--since 'yesterday': a duration such as 24h, or a moment"):
        read_moment("yesterday", now=NOW)


def test_rules_are_read_as_the_sink_has_them() -> None:
    assert read_rules(["a=ignore", "b=ignore:x,y", "s.c=update:id"]) == {
        "a": TableRule(conflict="ignore", key=[]),
        "b": TableRule(conflict="ignore", key=["x", "y"]),
        "s.c": TableRule(conflict="update", key=["id"]),
    }
    for wrong in ("a", "a=merge", "a=update", "=ignore", "a=error"):
        with pytest.raises(SettingsError, match="--rule"):
            read_rules([wrong])


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
    wanted = Scope(**{"query": None, "since": None, "complete": False, "ledger": "l", "rules": [], **scope})
    with pytest.raises(SettingsError, match=why):
        await command.audit_deployment(load({"sink": sink}), Target("127.0.0.1:1"), wanted, as_json=False)


async def test_the_callers_converter_reads_their_histories(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    used: list[DataConverter] = []

    async def audit(client: Client, *_: Any, **__: Any) -> tuple[Report, Findings]:
        used.append(client.data_converter)
        return _found(len(used) - 1)

    async def connect(*, data_converter: str, **_: Any) -> Client:
        return await Client.connect("127.0.0.1:1", lazy=True, data_converter=connecting.load_converter(data_converter))

    monkeypatch.setattr(connecting, "connect", connect)
    monkeypatch.setattr(command, "audit", audit)
    scope = Scope(None, None, False, "ledger", [])
    settings, target = load({"sink": "sqlite:///x.db"}), Target(data_converter=f"{__name__}:CONVERTER")
    assert await command.audit_deployment(settings, target, scope, as_json=True) == 0
    assert await command.audit_deployment(settings, target, scope, as_json=True) == 1
    assert used == [CONVERTER, CONVERTER]
    assert len(capsys.readouterr().out.splitlines()) == 2


def _found(violations: int) -> tuple[Report, Findings]:
    found = Findings()
    for n in range(violations):
        found.add(Violation("a rule", f"r{n}\x1b[2J[red]", "why"))
    figures: dict[str, Any] = dict.fromkeys(("workflows", "activities", "requests", "written", "records", "outside"), 1)
    report = Report(not violations, told={"written": 1}, broken=dict(found.broken), unchecked={"[bold]x": 2}, **figures)
    return report, found


def test_a_report_is_plain_lines_and_one_for_each_violation(capsys: pytest.CaptureFixture[str]) -> None:
    command._show(*_found(command.SHOWN + 3))
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == "promises:              broken: 103 x a rule"
    assert "not checked:           2 x [bold]x" in said.out.splitlines()
    lines = said.err.splitlines()
    assert lines[0] == r"violation: a rule: r0\x1b[2J[red]: why"
    assert lines[-1] == "violation: ... and 3 more"
    assert len(lines) == command.SHOWN + 1


def test_a_report_as_json_has_all_of_it_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    command._print_json(*_found(200))
    (line,) = capsys.readouterr().out.splitlines()
    report = json.loads(line)
    assert (report["holds"], report["broken"], len(report["violations"])) == (False, {"a rule": 200}, 200)
    assert report["violations"][0] == {"rule": "a rule", "request_id": "r0\x1b[2J[red]", "detail": "why"}


def test_order_is_judged_in_one_sweep() -> None:
    def overtaken(*spans: tuple[str, int, int, int]) -> list[str]:
        return [violation.request_id for violation in out_of_order([Span(*span) for span in spans], "here")]

    assert overtaken(("a", 1, 1, 1), ("b", 2, 2, 1), ("c", 3, 3, 2)) == []
    assert overtaken(("a", 1, 1, 3), ("b", 2, 2, 1), ("c", 3, 3, 2)) == ["b", "c"]
    # It arrived again after the other: either arrival may be the one that was applied.
    assert overtaken(("a", 1, 5, 3), ("b", 2, 2, 1)) == []
    many = [(f"r{n}", n, n, n) for n in range(100_000)]
    assert overtaken(*many) == []
