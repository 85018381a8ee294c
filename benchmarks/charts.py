"""Plots as inline SVG, drawn by matplotlib: bars and curves, axes from zero, with units, readable in light and dark.

Text stays text, and its colours are those of the page. What is drawn from the same figures is the same byte for byte.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from html import escape

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from benchmarks.rounding import number

COLOURS = ("#4269d0", "#d98c00", "#e5534b", "#2f9e8f", "#3ca951", "#a463f2", "#9c6b4e")
WIDTH = 4.6
"""Inches, of 72 points: as wide as a telephone, and a desktop has two or three in a row."""
BAR = 0.3
FONTS = ["DejaVu Sans", "Verdana", "sans-serif"]

_INK, _SOFT, _LINE = "#010101", "#020202", "#030303"
"""What matplotlib draws with, for the colours of the page: `on_page` puts those in their places."""
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "benchmarks",
    "font.family": FONTS[0],
    "font.size": 9.5,
    "text.color": _INK,
    "axes.labelcolor": _SOFT,
    "axes.edgecolor": _LINE,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.7,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.02,
    "figure.constrained_layout.w_pad": 0.02,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.handlelength": 1.9,
    "legend.columnspacing": 1.2,
    "lines.linewidth": 2.0,
    "lines.markersize": 5,
}


@dataclass(frozen=True)
class Style:
    """How lines of a chart are told apart: colour and dashes by name; others take the next colour."""

    colours: Mapping[str, str] = field(default_factory=dict)
    dashed: Sequence[str] = ()


def bars(
    title: str, unit: str, values: Mapping[str, float], *, target: tuple[str, float] | None = None, group: int = 1
) -> str:
    """One horizontal bar for each name; so many in a row share a colour."""
    with mpl.rc_context(_STYLE):
        figure, axes = _one(0.75 + BAR * len(values))
        colours = [COLOURS[index // group % len(COLOURS)] for index in range(len(values))]
        drawn = axes.barh(list(values), list(values.values()), color=colours, height=0.7)
        axes.bar_label(drawn, labels=[number(value) for value in values.values()], padding=4, fontsize=9)
        _across(axes, unit, max([*values.values(), target[1] if target else 0.0]))
        if target:
            axes.axvline(target[1], color=_INK, linestyle=(0, (4, 3)), linewidth=1)
            axes.set_title(f"- - {target[0]} {number(target[1])}", fontsize=9, loc="right")
        return _figure(title, figure)


def stacked(title: str, unit: str, values: Mapping[str, Mapping[str, float]]) -> str:
    """One horizontal bar for each name, made of its parts."""
    parts = list(dict.fromkeys(part for of in values.values() for part in of))
    with mpl.rc_context(_STYLE):
        figure, axes = _one(1.05 + BAR * len(values))
        left = [0.0] * len(values)
        for index, part in enumerate(parts):
            widths = [max(0.0, of.get(part, 0.0)) for of in values.values()]
            drawn = axes.barh(
                list(values), widths, left=left, label=part, color=COLOURS[index % len(COLOURS)], height=0.7
            )
            left = [start + width for start, width in zip(left, widths, strict=True)]
        sums = [number(sum(of.values())) for of in values.values()]
        axes.bar_label(drawn, labels=sums, padding=4, fontsize=9)
        _across(axes, unit, max(left))
        figure.legend(loc="outside lower left", ncols=4)
        return _figure(title, figure)


def curves(
    title: str,
    x_name: str,
    y_unit: str,
    lines: Mapping[str, Sequence[tuple[float, float]]],
    *,
    log: bool = True,
    marks: bool = True,
    style: Style | None = None,
) -> str:
    """Lines; y starts at zero, x is logarithmic, or linear and starts at zero too."""
    with mpl.rc_context(_STYLE):
        figure, axes = _one(3.0)
        draw_curves(axes, x_name, y_unit, lines, log=log, marks=marks, style=style or Style())
        figure.legend(loc="outside lower left", ncols=2 if max(map(len, lines)) > 16 else 3)
        return _figure(title, figure)


def draw_curves(
    axes: Axes,
    x_name: str,
    y_unit: str,
    lines: Mapping[str, Sequence[tuple[float, float]]],
    *,
    log: bool,
    marks: bool = True,
    style: Style,
) -> None:
    """Draws `curves` into axes that are there."""
    for index, (name, line) in enumerate(lines.items()):
        axes.plot(
            [x for x, _ in line],
            [y for _, y in line],
            label=name,
            color=style.colours.get(name, COLOURS[index % len(COLOURS)]),
            linestyle=(0, (4, 2)) if name in style.dashed else "-",
            marker="o" if marks else "",
        )
    axes.set_ylim(0, 1.12 * (max(y for line in lines.values() for _, y in line) or 1))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(_apart(sorted({x for line in lines.values() for x, _ in line}))))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    else:
        furthest = max(x for line in lines.values() for x, _ in line)
        axes.set_xlim(-0.02 * furthest if marks else 0, 1.03 * furthest)
    axes.set_xlabel(x_name + (" (log)" if log else ""))
    axes.set_title(y_unit, fontsize=9, color=_SOFT, loc="left")
    axes.grid(axis="y")


def standalone(figure: Figure, title: str, ink: str, soft: str, line: str) -> str:
    """A figure as a file of its own, with its colours in it."""
    drawn = _svg(figure, title)
    for name, colour in ((_INK, ink), (_SOFT, soft), (_LINE, line)):
        drawn = drawn.replace(name, colour)
    return drawn.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)


def style_context() -> AbstractContextManager[None]:
    """Within it, figures look like those of the report."""
    context: AbstractContextManager[None] = mpl.rc_context(_STYLE)
    return context


def _apart(ticks: Sequence[float]) -> list[float]:
    """Those whose labels do not touch on a logarithmic axis."""
    kept: list[float] = []
    span = math.log10(ticks[-1] / ticks[0]) or 1.0
    for tick in ticks:
        if not kept or math.log10(tick / kept[-1]) / span > 0.08:
            kept.append(tick)
    return kept


def _one(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height))
    return figure, figure.add_subplot()


def _across(axes: Axes, unit: str, largest: float) -> None:
    """An axis of values for horizontal bars, the first one on top."""
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelcolor=_INK, labelsize=9.5)
    axes.set_xlim(0, 1.18 * (largest or 1.0))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axes.set_xlabel(unit)
    axes.grid(axis="x")


def _figure(title: str, figure: Figure) -> str:
    drawing = _svg(figure, title)
    for name, colour in ((_INK, "var(--ink)"), (_SOFT, "var(--soft)"), (_LINE, "var(--line)")):
        drawing = drawing.replace(name, colour)
    return f"<figure><figcaption>{escape(title)}</figcaption>{drawing}</figure>"


_TAG = re.compile(r"<svg [^>]*?viewBox=\"([^\"]*)\"[^>]*>")


def _svg(figure: Figure, title: str) -> str:
    """Without what only matplotlib needs, and nothing that changes from run to run."""
    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    target = io.StringIO()
    figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None})
    text = target.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r' id="(?:figure|axes|patch|text|line2d|matplotlib\.axis|xtick|ytick|legend)_\d+"', "", text)
    text = text.replace(f"font-family: '{FONTS[0]}'; ", "")
    text = text.replace("*{stroke", f"text{{font-family: {', '.join(FONTS)}}} *{{stroke", 1)
    text = re.sub(r' transform="rotate\(-0 [^"]*\)"', "", text)
    text = _TAG.sub(rf'<svg viewBox="\1" role="img" aria-label="{escape(title)}">', text, count=1)
    text = text.replace("xlink:href", "href")
    return re.sub(r"\s*\n\s*", " ", re.sub(r">\s+<", "><", text)).strip()
