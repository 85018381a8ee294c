"""`check_sink`: tests whether a sink keeps the promises of `Sink`, with or without pytest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from unittest import SkipTest

from temporal_batching.testing import sink_changes, sink_fences  # noqa: F401  register their checks
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
        skipped: The promises that were not checked, each with the option that it needs.
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
    returning: Sequence[str] = (),
    update: MakeRecord | None = None,
    delete: MakeRecord | None = None,
    add: MakeRecord | None = None,
    totals: ReadRows | None = None,
    exactly_once: bool = True,
    fences: bool = True,
    ordered: bool = True,
    timeout: timedelta = timedelta(seconds=30),
) -> SinkReport:
    """Checks that a sink keeps all its promises, or one of them.

    Each promise uses its own request ids, batch ids and numbers, so that one store is enough for all of them and for
    the next run.

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
        make_sink: Returns a new sink over the same store each time it is called: two at a time stand for two
            processes, one after the other for a restart. It may be a coroutine function, or return an async context
            manager. The check opens and closes the sinks.
        promise: The promise to check; by default all of them.
        record: Makes a record that the sink accepts, from a number that fits 32 bits and a text. The table should have
            no unique constraint, so that a row that is applied twice is noticed.
        rows: Reads the applied rows as pairs of number and text, in the order in which they were applied. Without it
            only outcomes are checked.
        bad: Makes a record that the sink rejects, because it violates a constraint or a rule of the API.
        busy: Makes a record that the sink answers with `Outcome.retry` as long as the check runs.
        outage: Returns a context manager during which the store is unavailable.
        dead_letters: Reads the request ids of the dead letters that are kept.
        returning: Columns of ``record`` that the sink returns to a caller that asks for them.
        update: Makes a record that gives a text to the row with a number; then one number is one row.
        delete: Makes a record that deletes the row with a number, whatever the text.
        add: Makes a record that adds a number to the total that a text names.
        totals: Reads the totals as pairs of number and name.
        exactly_once: Whether the sink remembers request ids. Few promises apply to a sink that does not.
        fences: Whether `fence` keeps a late attempt from writing; False for a sink that inherits it.
        ordered: Whether ``rows`` returns the rows in the order in which they were applied.
        timeout: The longest that one call of the sink may take.

    Returns:
        The promises that were kept, and those that were not checked because an option is missing.

    Raises:
        BrokenPromise: The sink does not keep a promise. The message has the step, the expected and the actual result.
            If the sink breaks several promises, the others are notes of the first one.
        unittest.SkipTest: The promise cannot be checked with these options; pytest skips the test.
    """
    options = Options(
        make_sink=make_sink,
        record=record,
        rows=rows,
        bad=bad,
        busy=busy,
        outage=outage,
        dead_letters=dead_letters,
        returning=returning,
        update=update,
        delete=delete,
        add=add,
        totals=totals,
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
