"""Small plots as inline SVG: bars and curves, axes from zero, with units, readable in light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH = 720
LEFT, RIGHT, TOP = 190, 90, 28
COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#a463f2", "#9c6b4e")


def bars(
    title: str, unit: str, values: Mapping[str, float], *, target: tuple[str, float] | None = None, group: int = 1
) -> str:
    """One horizontal bar for each name; so many in a row share a colour."""
    height_of_bar, gap = 22, 10
    inner = len(values) * (height_of_bar + gap)
    top = ceiling(max([*values.values(), target[1] if target else 0.0, 0.0]))
    scale = (WIDTH - LEFT - RIGHT) / top
    parts = [_axis_x(top, unit, inner, scale)]
    for index, (name, value) in enumerate(values.items()):
        y = TOP + index * (height_of_bar + gap)
        width = max(1.0, value * scale)
        middle = y + height_of_bar / 2 + 4
        parts.append(f'<text x="{LEFT - 8}" y="{middle}" text-anchor="end">{escape(name)}</text>')
        parts.append(
            f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{height_of_bar}" '
            f'fill="{COLOURS[index // group % len(COLOURS)]}">'
            f"<title>{escape(name)}: {number(value)} {escape(unit)}</title></rect>"
        )
        parts.append(f'<text x="{LEFT + width + 6:.1f}" y="{middle}" class="value">{number(value)}</text>')
    if target:
        x = LEFT + target[1] * scale
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{TOP + inner}" class="target"/>')
        parts.append(f'<text x="{x + 4:.1f}" y="{TOP - 8}" class="small">{escape(target[0])}</text>')
    return _figure(title, parts, TOP + inner + 42)


def stacked(title: str, unit: str, values: Mapping[str, Mapping[str, float]]) -> str:
    """One horizontal bar for each name, made of its parts."""
    names = list(dict.fromkeys(part for parts in values.values() for part in parts))
    colour = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}
    height_of_bar, gap = 22, 10
    inner = len(values) * (height_of_bar + gap)
    top = ceiling(max(sum(parts.values()) for parts in values.values()))
    scale = (WIDTH - LEFT - RIGHT) / top
    drawn = [_axis_x(top, unit, inner, scale)]
    for index, (name, parts) in enumerate(values.items()):
        y, x = TOP + index * (height_of_bar + gap), float(LEFT)
        drawn.append(f'<text x="{LEFT - 8}" y="{y + 15}" text-anchor="end">{escape(name)}</text>')
        for part, value in parts.items():
            width = max(0.0, value * scale)
            drawn.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{height_of_bar}" fill="{colour[part]}">'
                f"<title>{escape(name)}, {escape(part)}: {number(value)} {escape(unit)}</title></rect>"
            )
            x += width
        drawn.append(f'<text x="{x + 6:.1f}" y="{y + 15}" class="value">{number(sum(parts.values()))}</text>')
    drawn.append(_legend(colour, TOP + inner + 52))
    return _figure(title, drawn, TOP + inner + 66 + 18 * (len(colour) // 5))


def curves(
    title: str,
    x_name: str,
    y_unit: str,
    lines: Mapping[str, Sequence[tuple[float, float]]],
    *,
    height: int = 300,
    log: bool = True,
    marks: bool = True,
) -> str:
    """Lines; y starts at zero, x is logarithmic, or linear and starts at zero too."""
    points = [point for line in lines.values() for point in line]
    top = ceiling(max(y for _, y in points))
    furthest = max(x for x, _ in points)
    ticks = sorted({x for x, _ in points}) if log else [ceiling(furthest) * step / 4 for step in range(5)]
    low, high = (math.log10(ticks[0]), math.log10(ticks[-1])) if log else (0.0, ticks[-1])
    left, inner = 80, height - TOP

    def place(x: float, y: float) -> tuple[float, float]:
        share = ((math.log10(x) if log else x) - low) / ((high - low) or 1)
        return left + share * (WIDTH - left - RIGHT), TOP + inner * (1 - max(0.0, y) / top)

    parts = []
    for step in range(5):
        value = top * step / 4
        _, y = place(ticks[0], value)
        parts.append(f'<line x1="{left}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end" class="small">{number(value)}</text>')
    for value in ticks:
        x, _ = place(value, 0)
        parts.append(
            f'<text x="{x:.1f}" y="{TOP + inner + 16}" text-anchor="middle" class="small">{number(value)}</text>'
        )
    middle, scale = (left + WIDTH - RIGHT) / 2, " (log)" if log else ""
    parts.append(f'<text x="{middle}" y="{TOP + inner + 34}" text-anchor="middle">{escape(x_name)}{scale}</text>')
    parts.append(f'<text x="{left}" y="{TOP - 10}" class="small">{escape(y_unit)}</text>')
    colour = {}
    for index, (name, line) in enumerate(lines.items()):
        colour[name] = COLOURS[index % len(COLOURS)]
        placed = [place(x, y) for x, y in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour[name]}" stroke-width="2.5"/>')
        for (x, y), (value, figure) in zip(placed, line, strict=True) if marks else ():
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour[name]}"><title>{escape(name)}, '
                f"{number(value)}: {number(figure)} {escape(y_unit)}</title></circle>"
            )
    parts.append(_legend(colour, TOP + inner + 58))
    return _figure(title, parts, TOP + inner + 72)


def ceiling(value: float) -> float:
    """A round number at or above the value, for the end of an axis."""
    if value <= 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(value))
    return next(unit * step for step in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10) if unit * step >= value)


def number(value: float) -> str:
    """Three digits that matter."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _axis_x(top: float, unit: str, inner: float, scale: float) -> str:
    parts = []
    for step in range(5):
        x = LEFT + top * step / 4 * scale
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{TOP + inner}" class="grid"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{TOP + inner + 14}" text-anchor="middle" class="small">'
            f"{number(top * step / 4)}</text>"
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{TOP + inner + 32}" text-anchor="middle" class="small">{escape(unit)}</text>')
    return "".join(parts)


def _legend(colour: Mapping[str, str], y: float) -> str:
    parts = []
    for index, (name, value) in enumerate(colour.items()):
        x, row = 20 + (index % 5) * 138, y + 18 * (index // 5)
        parts.append(f'<rect x="{x}" y="{row - 9}" width="10" height="10" fill="{value}"/>')
        parts.append(f'<text x="{x + 14}" y="{row}" class="small">{escape(name)}</text>')
    return "".join(parts)


def _figure(title: str, parts: Sequence[str], height: float) -> str:
    drawing = f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    return f"<figure><figcaption>{escape(title)}</figcaption>{drawing}</figure>"
