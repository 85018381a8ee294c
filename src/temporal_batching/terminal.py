"""A console that shows text from elsewhere as text. Needs Rich, which comes with the extra ``cli``."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment


def printable(text: str, *, keep: str = "") -> str:
    """``text`` without what a terminal obeys or what makes it look like something else: escapes, bells, bidi marks.

    Ids, table names and the database's own words come from anyone who may send a write.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


class CleanConsole(Console):
    """Lets through what Rich itself makes of styles, and nothing of the kind from the text."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(printable(segment.text, keep="\n"), segment.style)
