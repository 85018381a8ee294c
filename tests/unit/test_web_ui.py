"""Text from elsewhere in Markdown, and paths of the Web UI."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from temporal_batching.web_ui import code, moment, workflow_path


@given(st.text(alphabet=st.sampled_from("ab` |<\n\x1b[*_"), max_size=30))
def test_code_is_one_span_that_no_backtick_in_it_ends(text: str) -> None:
    shown = code(text)
    if not shown:
        assert not "".join(c for c in text if c.isprintable()).strip()
        return
    found = re.fullmatch(r"(`+)( ?)(.*?)\2\1", shown)
    assert found is not None
    fence, inner = found[1], found[3]
    assert fence not in re.findall("`+", inner)
    assert shown.isprintable()
    assert inner.strip() == re.sub(r"[^ -~]", " ", text).strip()


def test_a_moment_is_in_utc() -> None:
    assert moment(0.9) == "1970-01-01 00:00:00 UTC"


def test_a_path_holds_any_name() -> None:
    assert workflow_path("a b", "w/1?") == "/namespaces/a%20b/workflows/w%2F1%3F"
