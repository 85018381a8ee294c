"""The report: what it keeps, how it is drawn, how it judges."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from benchmarks.charts import bars, curves, stacked
from benchmarks.page import render
from benchmarks.plan import PARTS, QUESTIONS, QUICK_PARTS, judge, make_plan
from benchmarks.question import Wanted
from benchmarks.questions import limit, many
from benchmarks.questions.limit import CONTENDERS
from benchmarks.report import Limit, LimitPoint, Point, Report, Result
from benchmarks.rounding import number

from benchmarks import published, published_tables, report


def result(way: str, writes: int, **figures: object) -> Result:
    given = {
        "seconds": 10.0,
        "persistence_per_write": 0.3,
        "frontend_per_write": 0.1,
        "service_per_write": 0.1,
        "actions_metric_per_write": 0.0,
        "actions_per_write": 0.02,
        "actions_of": {"update": 0.01},
        "caller_events": 0.0,
        "caller_bytes": 0.0,
        "batcher_events_per_write": 0.1,
        "batcher_bytes_per_write": 5.0,
        "batcher_runs": 1,
        "transactions_per_write": 0.001,
        "statements_per_write": 0.002,
        "wal_bytes_per_write": 100.0,
        "wal_fsyncs_per_write": None,
        "cpu_ms_per_write": {"temporal": 0.02, "workers": 0.03, "database": 0.01, "driver": 0.03},
        "latency": {},
        "stages": {},
        "writes_per_second": writes / 10,
        "idle_persistence_per_second": 0.0,
        **figures,
    }
    return Result(way=way, writes=writes, **given)  # type: ignore[arg-type]


def far(line: str, round_trip_ms: float, writes_per_second: float) -> LimitPoint:
    return LimitPoint(
        line=line,
        round_trip_ms=round_trip_ms,
        measured_ms=round_trip_ms + 0.3,
        writes=600,
        seconds=6.0,
        writes_per_second=writes_per_second,
        latency={"p50": 1.0, "p95": 2.0, "p99": 2.5, "max": 3.0},
        connections=5,
        transactions_per_write=1.0,
        fsyncs_per_write=1.0,
        in_transaction=4.0,
        lock_waits=0.5,
        others={"p50": 0.001, "p95": 0.002, "p99": 0.003, "max": 0.004},
    )


def everything() -> Report:
    return Report(
        {"cores": 2},
        points=[
            Point(many.CURVE, many.PROGRAM, 60_000, result("write_many", 60_000)),
            Point(many.CURVE, many.WORKFLOWS, 20_000, result("workflow_many", 20_000)),
        ],
        limit=Limit(
            [far(line, ms, 300 / ms) for line, of in CONTENDERS.items() for ms in of.round_trips],
            {"p50": 0.001, "p95": 0.002},
        ),
    )


def test_what_was_saved_is_read_again(tmp_path: Path) -> None:
    saved = everything()
    saved.targets = judge(saved)
    saved.save_json(tmp_path)
    assert report.load(tmp_path / "report.json") == saved


def test_every_question_has_a_name_and_parts_of_its_own() -> None:
    assert len(set(PARTS)) == len(QUESTIONS)
    for quick, parts in ((False, PARTS), (True, QUICK_PARTS)):
        ways = ("direct", "local", "activity", "signal", "classic", "in-process", "write_many", "workflow_many")
        titles = [part.title for part in make_plan(Wanted(parts, ways, quick=quick))]
        assert len(set(titles)) == len(titles) > len(parts) - 1


def test_the_page_needs_no_network() -> None:
    page = render(everything())
    assert re.findall(r"(?:src|href)=[\"'](?!#)[^\"']*|@import|url\((?!#)[^)]*", page) == []


@pytest.mark.parametrize(
    "draw",
    [
        lambda: bars("a & b", "ms", {"one": 1.0, "two": 20.0}, target=("linger", 15.0)),
        lambda: stacked("a & b", "ms", {"one": {"x": 1.0, "y": 2.0}, "two": {"x": 0.0}}),
        lambda: curves("a & b", "callers", "writes/s", {"direct": [(1, 2.0), (1000, 3.0)], "ours": [(1, 1.0)]}),
    ],
)
def test_a_chart_is_the_same_each_time_and_has_its_text_as_text_in_the_colours_of_the_page(draw: object) -> None:
    assert callable(draw)
    first = draw()
    assert first == draw()
    assert "<figcaption>a &amp; b</figcaption>" in first
    assert ">direct</text>" in first or ">one</text>" in first
    assert "var(--ink)" in first
    assert not re.search(r"#0[123]0[123]0[123]|\d{4}-\d\d-\d\d|Matplotlib", first)


def test_the_readmes_figure_is_drawn_from_the_data_beside_it() -> None:
    assert published.DRAWING.read_text(encoding="utf-8") == published.draw(published.read()), (
        "draw it again: python -m benchmarks --redraw --publish"
    )


def test_the_pages_table_is_made_of_the_same_data() -> None:
    page = published.PAGE.read_text(encoding="utf-8")
    assert page == published.with_table(page, published.read())
    assert page.count(f"| {published.LEGEND[limit.OURS]} |") == len(CONTENDERS[limit.OURS].round_trips)


def test_the_readmes_figure_is_small_and_carries_its_own_background() -> None:
    drawing = published.DRAWING.read_text(encoding="utf-8")
    assert len(drawing) < 60_000
    assert published.BACK in drawing.partition(">")[2][:200]
    assert "var(" not in drawing


def test_readme_says_of_write_many_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = published.README.read_text(encoding="utf-8")
    assert len(published.SENTENCE.findall(readme)) == 1
    copy = tmp_path / "README.md"
    copy.write_text(readme, encoding="utf-8")
    monkeypatch.setattr(published, "README", copy)
    cpu = {"temporal": 0.02, "workers": 0.03, "database": 0.01, "driver": 0.025}
    slow, fast = result("write_many", 1, writes_per_second=1_000.0), result("write_many", 1, cpu_ms_per_write=cpu)
    fast.writes_per_second = 16_400.0
    apart = result("write_many", 1, writes_per_second=99_000.0)
    lines = {many.PROGRAM: slow, many.PROGRAM_IN_FLIGHT: fast, many.PROGRAM_GATEWAY: apart}
    found = Report({}, points=[Point(many.CURVE, line, 1, one) for line, one in lines.items()])
    assert published.publish(found) == (copy,)
    written = copy.read_text(encoding="utf-8")
    assert "commits 16,400 records a second through one shard, each exactly once, for 75 µs of CPU" in written
    assert published.with_sentence(written, "x") == published.with_sentence(readme, "x")


def test_nothing_is_published_that_was_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DIRECTORY", "DATA", "DRAWING", "PAGE"):
        monkeypatch.setattr(published, name, tmp_path / name)
    with pytest.raises(SystemExit, match="not measured"):
        published.publish(Report({}))
    assert list(tmp_path.iterdir()) == []


def test_a_target_is_met_missed_or_not_measured() -> None:
    def verdict(ours: float | None) -> bool | None:
        points = [far(limit.DIRECT_5, 50, 30.0)] + ([far(limit.OURS, 50, ours)] if ours else [])
        lines = {line[0]: line[3] for line in judge(Report({}, limit=Limit(points)))}
        return lines["writes/s, database 50 ms away, 5 connections"]

    assert [verdict(75.1), verdict(74.9), verdict(None)] == [True, False, None]


def test_figures_have_three_digits_that_matter() -> None:
    assert [number(value) for value in (0, 1234.5, 12.345, 0.012345, 3.0)] == ["0", "1,234", "12.3", "0.0123", "3"]


@pytest.fixture
def documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Copies of what a run writes into."""
    copies = {}
    for name in ("README", "PAGE"):
        original: Path = getattr(published, name)
        copies[name] = tmp_path / original.name
        copies[name].write_text(original.read_text(encoding="utf-8"), encoding="utf-8")
        monkeypatch.setattr(published, name, copies[name])
    return copies


def test_a_whole_run_fills_the_tables_of_ways_and_targets(documents: dict[str, Path]) -> None:
    ways = [result(way, 800, persistence_per_write=10.0) for way in published_tables.OF_PAGE]
    ways[-1].persistence_per_write = 0.5
    found = Report({"load average at the start": 0.1}, results=ways, targets=[("a target", "≤ 3", "2.5", True)])
    assert published.publish(found) == (documents["README"], documents["PAGE"])
    page = documents["PAGE"].read_text(encoding="utf-8")
    assert "| ours, `write_many` | 0.5 (0.05x) |" in page
    assert "| a target | ≤ 3 | 2.5 | met |" in page
    assert "| Temporal's persistence requests | 10 | 10 (1.00x) |" in documents["README"].read_text(encoding="utf-8")


def test_a_quick_run_fills_no_table_of_ways(documents: dict[str, Path]) -> None:
    before = documents["README"].read_text(encoding="utf-8")
    with pytest.raises(SystemExit, match="not measured"):
        published.publish(Report({}, results=[result("direct", 200)]))
    assert documents["README"].read_text(encoding="utf-8") == before


def test_a_document_without_the_place_for_a_table_is_an_error() -> None:
    with pytest.raises(ValueError, match="0 blocks of the name ways"):
        published_tables.with_block("no comments", "ways", "| |")
