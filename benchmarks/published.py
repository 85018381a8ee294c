"""README's first figure: writes/s and p99 over the round trip to the database, as an SVG with its data beside it.

And README's sentence about `write_many`, its table, and the tables of the page about performance.

    python -m benchmarks --redraw --publish

The SVG is drawn from the data and nothing else, and is the same byte for byte each time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from benchmarks import published_tables as tables
from benchmarks.charts import Style, draw_curves, standalone, style_context
from benchmarks.questions import limit as question
from benchmarks.questions import many
from benchmarks.questions.limit import HOT, ROUND_TRIP, ROWS, STYLE, lines_of
from benchmarks.report import Limit, Report, load_limit
from benchmarks.rounding import number

DIRECTORY = Path(__file__).parents[1] / "docs" / "figures"
DATA, DRAWING = DIRECTORY / "database-limit.json", DIRECTORY / "database-limit.svg"
PAGE = DIRECTORY.parent / "explanation" / "performance.md"
TABLE_OF_PAGE = re.compile(r"(<!-- database-limit[^\n]*-->\n).*?(?=<!-- /database-limit -->)", re.DOTALL)
README = DIRECTORY.parents[1] / "README.md"
SENTENCE = re.compile(r"(<!-- write-many[^\n]*-->\n).*?(?=<!-- /write-many -->)", re.DOTALL)
TITLE = "300 workflows write rows to a database that is far away"
NOT_OF_THE_MACHINE = ("measured at", "load average at the start", "load average at the end", "system")
"""What says when and where rather than with what."""
COLUMNS_OF_PAGE = (0, 2, 3, 4, 5, 6, 7, 9)
"""Of `limit.COLUMNS`: without p50, and without what was measured only to check the proxy."""
PANELS = (
    ("A row each: writes per second", ROWS, "writes/s"),
    ("A row each: p99 of the confirmation, s", ROWS, "p99"),
    ("All add to one row: writes per second", HOT, "writes/s"),
    ("All add to one row: p99 of the confirmation, s", HOT, "p99"),
)
ROUND_TRIPS = (1, 20, 50, 100)
LEGEND = {
    question.OURS: "Temporal Batching, 5 connections",
    question.DIRECT_5: "a transaction per write, 5 connections",
    question.DIRECT_20: "a transaction per write, 20 connections",
    question.AUTOCOMMIT: "a lone statement per write, 5 connections",
    question.HOT_OURS: "one hot row, Temporal Batching",
    question.HOT_DIRECT: "one hot row, a transaction per write",
}
_ALIKE = {question.HOT_OURS: STYLE.colours[question.OURS], question.HOT_DIRECT: STYLE.colours[question.DIRECT_5]}
LEGEND_STYLE = Style(
    {LEGEND[name]: colour for name, colour in {**STYLE.colours, **_ALIKE}.items()},
    dashed=[LEGEND[name] for name in STYLE.dashed],
)
INK, SOFT, GRID, BACK, EDGE = "#1b1e23", "#4d545e", "#d9dde3", "#ffffff", "#d0d5dc"


def publish(report: Report) -> tuple[Path, ...]:
    """Writes what was measured into README, the page and the figure with its data. Returns where."""
    sentence = sentence_of(report)
    written = []
    if sentence is not None:
        README.write_text(with_sentence(README.read_text(encoding="utf-8"), sentence), encoding="utf-8")
        written.append(README)
    if tables.is_whole(report):
        written += _publish_tables(report)
    if report.limit.points or not written:
        written += _publish_limit(report)
    return tuple(dict.fromkeys(written))


def _publish_tables(report: Report) -> tuple[Path, ...]:
    readme, page = (path.read_text(encoding="utf-8") for path in (README, PAGE))
    README.write_text(tables.with_block(readme, "ways", tables.for_readme(report)), encoding="utf-8")
    page = tables.with_block(page, "ways", tables.for_page(report))
    PAGE.write_text(tables.with_block(page, "targets", tables.targets(report)), encoding="utf-8")
    return README, PAGE


def _publish_limit(report: Report) -> tuple[Path, ...]:
    missing = [name for name in question.CONTENDERS if not lines_of(report.limit, (name,), "writes/s")]
    if missing:
        raise SystemExit(f"not measured, so nothing is published: {', '.join(missing)}")
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    machine = {name: value for name, value in report.machine.items() if name not in NOT_OF_THE_MACHINE}
    DATA.write_text(json.dumps({"machine": machine, **asdict(report.limit)}, indent=1) + "\n", encoding="utf-8")
    DRAWING.write_text(draw(read()), encoding="utf-8")
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), read()), encoding="utf-8")
    return DATA, DRAWING, PAGE


def sentence_of(report: Report) -> str | None:
    """What README says of `write_many`; None if it was not measured."""
    found = many.fastest(report)
    if found is None:
        return None
    _, result = found
    rate, cpu = number(result.writes_per_second), number(many.cpu_microseconds(result))
    return (
        f"From a program, `write_many` commits {rate} records a second through one shard, each exactly once, "
        f"for {cpu} µs of CPU a record in program, worker and server."
    )


def with_sentence(readme: str, sentence: str) -> str:
    return SENTENCE.sub(lambda match: f"{match[1]}{sentence}\n", readme)


def read(path: Path = DATA) -> Limit:
    return load_limit(json.loads(path.read_text(encoding="utf-8")))


def with_table(page: str, limit: Limit) -> str:
    """The page with every point in its table."""
    head = ["way", "round trip, ms", *(question.COLUMNS[n] for n in COLUMNS_OF_PAGE)]
    rows = [head, ["---"] * len(head)]
    for point in limit.points:
        found = question.cells(point)
        rows.append([LEGEND[point.line], number(point.round_trip_ms), *(found[n] for n in COLUMNS_OF_PAGE)])
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return TABLE_OF_PAGE.sub(lambda match: f"{match[1]}\n{table}\n", page)


def draw(limit: Limit) -> str:
    """The SVG: on a card of its own, so that it can be read on a page of any colour."""
    with style_context():
        inside_card = ConstrainedLayoutEngine(rect=(0.015, 0.015, 0.97, 0.97), hspace=0.06, wspace=0.05)
        figure = Figure(figsize=(7.6, 6.4), layout=inside_card)
        for axes, (title, names, shown) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
            lines = {LEGEND[name]: line for name, line in lines_of(limit, names, shown).items()}
            draw_curves(axes, ROUND_TRIP, "", lines, log=False, style=LEGEND_STYLE)
            axes.set_title(title, loc="left", fontsize=10)
            axes.set_xticks(ROUND_TRIPS)
            _label_last(axes, lines)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=2, fontsize=9.5)
        return on_card(standalone(figure, TITLE, INK, SOFT, GRID))


def on_card(drawing: str) -> str:
    head, _, rest = drawing.partition(">")
    card = f'<rect width="100%" height="100%" rx="8" fill="{BACK}" stroke="{EDGE}"/>'
    return f"{head}>{card}{rest}\n"


def _label_last(axes: Axes, lines: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    """Writes the figure at the end of ours and of what it is compared with, away from each other."""
    ours, other = list(lines)[:2]
    higher = lines[ours][-1][1] > lines[other][-1][1]
    for name, up in ((ours, higher), (other, True)):
        place, colour = lines[name][-1], LEGEND_STYLE.colours[name]
        offset = (0, 5) if up else (0, -12)
        axes.annotate(number(place[1]), place, offset, textcoords="offset points", ha="center", color=colour)
