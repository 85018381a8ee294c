"""The promises of a sink that updates, deletes and adds."""

from __future__ import annotations

from temporal_batching.contract import OutcomeKind, Record, RejectCode
from temporal_batching.testing.sink_kit import Kit, MakeRecord
from temporal_batching.testing.sink_promises import SinkPromise, checks

WRITTEN, DUPLICATE, REJECTED = OutcomeKind.WRITTEN, OutcomeKind.DUPLICATE, OutcomeKind.REJECTED


def _of_its_row(kit: Kit, make: MakeRecord | None, inserted: Record, text: str = "") -> Record:
    """A record for the row that another one inserts."""
    ((number, _),) = kit.pairs(kit.request(inserted))
    return (make or kit.options.record)(number, text)


async def _texts(kit: Kit) -> list[str]:
    return sorted(text for _, text in await kit.rows())


@checks(SinkPromise.CHANGED, "rows", "update", "delete")
async def _changed(kit: Kit) -> None:
    """Updates and deletes of a row are applied in order: in a request, in a batch, and from batch to batch. A delete of
    a row that is not there is `written`.
    """
    update, delete = kit.options.update, kit.options.delete
    async with kit.sink() as sink:
        kit.case = "two rows, and a request that updates one and deletes the other"
        one, other = kit.record(), kit.record()
        kit.expect(await kit.kinds(sink, kit.batch(kit.request(one), kit.request(other))), [WRITTEN] * 2)
        changes = kit.request(_of_its_row(kit, update, one, "changed"), _of_its_row(kit, delete, other))
        kit.expect(await kit.kinds(sink, kit.batch(changes)), [WRITTEN])
        kit.expect(await _texts(kit), ["changed"])
        kit.case = "a batch that inserts a row, updates it, deletes it and inserts it again, by requests of one key"
        row = kit.record("first")
        steps = [
            row,
            _of_its_row(kit, update, row, "second"),
            _of_its_row(kit, delete, row),
            _of_its_row(kit, None, row, "third"),
        ]
        batch = kit.batch(*(kit.request(step, key="changes") for step in steps))
        kit.expect(await kit.kinds(sink, batch), [WRITTEN] * 4)
        kit.expect(await _texts(kit), ["changed", "third"])
        if kit.options.exactly_once:
            kit.case = "the same batch in a later attempt, and in another batch"
            kit.expect(await kit.kinds(sink, kit.again(batch)), [WRITTEN] * 4)
            kit.expect(await kit.kinds(sink, kit.batch(*batch)), [DUPLICATE] * 4)
            kit.expect(await _texts(kit), ["changed", "third"])
        kit.case = "a delete of a row that was deleted before"
        kit.expect(await kit.kinds(sink, kit.batch(kit.request(_of_its_row(kit, delete, other)))), [WRITTEN])


@checks(SinkPromise.MISSING_ROW, "update")
async def _missing_row(kit: Kit) -> None:
    """A request that updates a row that is not there is `rejected` with code ``missing_row``, with all its records; the
    others are written.
    """
    async with kit.sink() as sink:
        kit.case = "an update of a row that is not there, behind a record that could be written"
        good, neighbour = kit.record(), kit.request()
        missing = kit.request(good, kit.record(make=kit.options.update))
        outcomes = await kit.write(sink, kit.batch(kit.request(), missing, neighbour))
        kit.expect([outcome.kind for outcome in outcomes], [WRITTEN, REJECTED, WRITTEN])
        kit.expect(outcomes[1].code, RejectCode.MISSING_ROW)
        kit.expect(await kit.is_there(kit.request(good)), False, None)
        kit.expect(await kit.is_there(neighbour), True, None)


@checks(SinkPromise.ADDED, "add", "totals", "exactly_once")
async def _added(kit: Kit) -> None:
    """Every addition counts once: of many requests in a batch, of a batch that comes again, and of a duplicate."""
    add = kit.options.add
    assert add is not None
    async with kit.sink() as sink:
        kit.case = "a batch of 100 requests that add 0 to 99 to one of three totals"
        names = [kit.unique(f"total-{n}") for n in range(3)]
        batch = kit.batch(*(kit.request(add(n, names[n % 3])) for n in range(100)))
        kit.expect(await kit.kinds(sink, batch), [WRITTEN] * 100)
        expected = {name: sum(range(n, 100, 3)) for n, name in enumerate(names)}
        kit.expect(await kit.totals(names), expected)
        kit.case = "the same batch in a later attempt, and in another batch with one request more"
        kit.expect(await kit.kinds(sink, kit.again(batch)), [WRITTEN] * 100)
        more = kit.request(add(1_000, names[0]))
        kit.expect(await kit.kinds(sink, kit.batch(*batch, more)), [DUPLICATE] * 100 + [WRITTEN])
        kit.expect(await kit.totals(names), {**expected, names[0]: expected[names[0]] + 1_000})
