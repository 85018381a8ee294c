"""`check_sink`: does a sink keep what `Sink` promises? For the tests of who writes one; under pytest or without."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from unittest import SkipTest

from temporal_batching.testing import sink_fences  # noqa: F401  registers its checks
from temporal_batching.testing.sink_kit import (
    BrokenPromise,
    Kit,
    MakeRecord,
    MakeSink,
    Options,
    Outage,
    ReadIds,
    ReadRows,
    default_record,
)
from temporal_batching.testing.sink_promises import CHECKS, SinkPromise

__all__ = ["BrokenPromise", "SinkPromise", "SinkReport", "check_sink"]


@dataclass(frozen=True)
class SinkReport:
    """What `check_sink` found.

    Attributes:
        kept: The promises that the sink keeps.
        skipped: Those that were not checked, with the option that each would need.
    """

    kept: list[SinkPromise] = field(default_factory=list)
    skipped: dict[SinkPromise, str] = field(default_factory=dict)


async def check_sink(
    make_sink: MakeSink,
    promise: SinkPromise | None = None,
    *,
    record: MakeRecord = default_record,
    rows: ReadRows | None = None,
    bad: MakeRecord | None = None,
    busy: MakeRecord | None = None,
    outage: Outage | None = None,
    dead_letters: ReadIds | None = None,
    exactly_once: bool = True,
    fences: bool = True,
    ordered: bool = True,
    timeout: timedelta = timedelta(seconds=30),
) -> SinkReport:
    """Checks that a sink keeps its promises: all of them, or the one that is given.

    Every promise uses request ids, batch ids and numbers of its own, so that one store serves for all of them, and
    for the next run.

    Example:
        ```python
        import pytest
        from temporal_batching import MemorySink
        from temporal_batching.testing import SinkPromise, check_sink

        @pytest.mark.parametrize("promise", SinkPromise)
        async def test_my_sink(promise: SinkPromise) -> None:
            store = MemorySink()
            await check_sink(lambda: store, promise)
        ```

    Args:
        make_sink: Gives a new sink over the same store each time it is called: two at once are two processes, one
            after the other is a restart. It may be a coroutine function, or give an async context manager. The check
            opens and closes what it is given.
        promise: The one to check; all by default.
        record: Makes a record of a number, which fits 32 bits, and a text, which the sink takes. The table should
            have no unique constraint, so that a row applied twice is seen.
        rows: Reads what was written, as pairs of number and text, in the order in which they were applied. Without
            it only answers are checked.
        bad: Makes a record that the sink rejects, as it breaks a constraint or a rule of the API.
        busy: Makes a record that the sink answers with `Outcome.retry` for as long as the check runs.
        outage: Gives a context manager in which the store is away.
        dead_letters: Reads the request ids of the dead letters that are kept.
        exactly_once: Whether the sink remembers request ids; one without is checked for little.
        fences: Whether `fence` keeps a late attempt from writing; False for a sink that inherits it.
        ordered: Whether ``rows`` tells the order in which rows were applied.
        timeout: The longest that one call of the sink may take.

    Returns:
        Which promises were kept, and which were not checked for want of an option.

    Raises:
        BrokenPromise: The sink does not keep a promise; the message says what was tried, what was expected, and what
            came. If it breaks several, those after the first are its notes.
        unittest.SkipTest: The one promise that was asked for cannot be checked with these options; pytest skips it.
    """
    options = Options(
        make_sink=make_sink,
        record=record,
        rows=rows,
        bad=bad,
        busy=busy,
        outage=outage,
        dead_letters=dead_letters,
        exactly_once=exactly_once,
        fences=fences,
        ordered=ordered,
        timeout=timeout,
    )
    report, broken = SinkReport(), list[BrokenPromise]()
    for each in [promise] if promise else SinkPromise:
        check = CHECKS[each]
        missing = next((need for need in check.needs if not options.has(need)), None)
        if missing is not None:
            report.skipped[each] = missing
            continue
        try:
            await check.run(Kit(options, each))
        except BrokenPromise as problem:
            broken.append(problem)
        else:
            report.kept.append(each)
    if broken:
        for other in broken[1:]:
            broken[0].add_note(f"and {other}")
        raise broken[0]
    if promise in report.skipped:
        raise SkipTest(f"{promise} is checked with the option `{report.skipped[promise]}`")
    return report
