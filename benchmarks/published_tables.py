"""The tables of README and of the page about performance that a whole run fills in: ways of writing, and targets."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from benchmarks.questions.ways import workflow_requests
from benchmarks.report import Report, Result
from benchmarks.rounding import number
from benchmarks.targets import VERDICTS

OF_README = {
    "direct": "one activity per row",
    "classic": "`classic`: signals in and out",
    "signal": "by signal",
    "activity": "by activity",
    "local": "gateway in the caller's worker",
}
OF_PAGE = {
    "direct": "`direct`",
    "in-process": "`in-process`",
    "classic": "`classic`",
    "signal": "ours, by signal",
    "activity": "ours, by activity, gateway on the batcher",
    "local": "ours, gateway in the caller's worker",
    "write_many": "ours, `write_many`",
}

Figure = Callable[[Result], float | None]

PERSISTENCE: Mapping[str, Figure] = {"persistence requests": lambda r: r.persistence_per_write}
"""What the batcher is compared by: these figures are followed by their ratio to the direct way."""
README_FIGURES: Mapping[str, Figure] = {
    "Temporal's persistence requests": PERSISTENCE["persistence requests"],
    "billable actions": lambda r: r.actions_per_write,
    "batcher's history events": lambda r: r.batcher_events_per_write,
    "database transactions": lambda r: r.transactions_per_write,
    "CPU of server and workers, ms": lambda r: r.cpu_ms_per_write["temporal"] + r.cpu_ms_per_write["workers"],
}
PAGE_FIGURES: Mapping[str, Figure] = {
    **PERSISTENCE,
    "of them for the workflows": workflow_requests,
    "updates": lambda r: r.frontend_of.get("UpdateWorkflowExecution"),
    "billable actions": lambda r: r.actions_per_write,
    "batcher events": lambda r: r.batcher_events_per_write,
    "database transactions": lambda r: r.transactions_per_write,
    "server CPU, ms": lambda r: r.cpu_ms_per_write["temporal"],
    "worker CPU, ms": lambda r: r.cpu_ms_per_write["workers"],
    "writes/s": lambda r: r.writes_per_second,
}
COMPARED = {"Temporal's persistence requests", "persistence requests", "of them for the workflows"}


def is_whole(report: Report) -> bool:
    """Whether every way was measured: a quick run leaves some out, and publishes no table of them."""
    return {result.way for result in report.results} >= set(OF_PAGE)


def for_readme(report: Report) -> str:
    """Figures down, ways across."""
    results = _results(report, OF_README)
    head = ["", *OF_README.values()]
    return _table(head, [[name, *_cells(name, figure, results)] for name, figure in README_FIGURES.items()])


def for_page(report: Report) -> str:
    """Ways down, figures across."""
    results = _results(report, OF_PAGE)
    columns = [_cells(name, figure, results) for name, figure in PAGE_FIGURES.items()]
    rows = [[name, *cells] for name, *cells in zip(OF_PAGE.values(), *columns, strict=True)]
    load = report.machine.get("load average at the start")
    return (
        f"Per write, in batches of 100; the ratio is to `direct`. Load average at the start: {load}.\n\n"
        + _table(["way", *PAGE_FIGURES], rows)
    )  # fmt: skip


def targets(report: Report) -> str:
    """What a run should come to, and what it came to."""
    rows = [[name, target, measured, VERDICTS[met]] for name, target, measured, met in report.targets]
    return _table(["figure", "target", "measured", ""], rows)


def with_block(text: str, name: str, content: str) -> str:
    """The text with what is between the comments of this name replaced.

    Raises:
        ValueError: It has no such comments.
    """
    block = re.compile(rf"(<!-- {name}[^\n]*-->\n).*?(?=<!-- /{name} -->)", re.DOTALL)
    replaced, found = block.subn(lambda match: f"{match[1]}\n{content}\n", text)
    if found != 1:
        raise ValueError(f"{found} blocks of the name {name}")
    return replaced


def _results(report: Report, ways: Mapping[str, str]) -> list[Result]:
    by_way = {result.way: result for result in report.results}
    return [by_way[way] for way in ways]


def _cells(name: str, figure: Figure, results: Sequence[Result]) -> list[str]:
    base = figure(results[0])
    cells = []
    for result in results:
        value = figure(result)
        cell = number(value) if value else "-"
        if value and base and name in COMPARED and result is not results[0]:
            cell += f" ({value / base:.2f}x)"
        cells.append(cell)
    return cells


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in [head, ["---"] * len(head), *rows])
