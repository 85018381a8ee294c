"""Pieces of the report's page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape


def plots(drawn: Iterable[str]) -> str:
    return f"<div class='plots'>{''.join(drawn)}</div>"


def paragraph(text: str, *, note: bool = False) -> str:
    return f"<p class='note'>{escape(text)}</p>" if note else f"<p>{escape(text)}</p>"


def meanings(of: Mapping[str, str]) -> str:
    return "<ul>" + "".join(f"<li><b>{escape(name)}</b>: {escape(text)}</li>" for name, text in of.items()) + "</ul>"


def table(title: str, head: Sequence[str], body: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Names of rows in the first column; wide tables scroll by themselves."""
    heads = "".join(f"<th>{escape(name)}</th>" for name in ["", *head])
    lines = "".join(
        f"<tr><td>{escape(name)}</td>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for name, cells in body
    )
    return f"<h3>{escape(title)}</h3><div class='scroll'><table><tr>{heads}</tr>{lines}</table></div>"
