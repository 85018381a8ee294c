"""Reads the ledger: the rows of checked requests, then all ids, to find those without a call."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from temporal_batching.audit.facts import LedgerFact
from temporal_batching.audit.isolate import VALUE_ERRORS, Refused, look_up_each
from temporal_batching.sinks.ledger import returned_mark

LEDGER_PAGE = 5_000


class LedgerReader:
    """Reads a ledger. The row with its identity has an empty request id, and is skipped."""

    def __init__(self, connection: sa.Connection, ledger: sa.Table) -> None:
        self._connection = connection
        self._ledger = ledger

    def look_up(self, request_ids: Sequence[str]) -> list[LedgerFact]:
        """The rows of these ids; ids that the ledger does not know are left out."""
        # An id that the database cannot encode is not in its ledger.
        return [one.found for one in look_up_each(request_ids, self._query) if one.found]

    def _query(self, request_ids: Sequence[str]) -> list[LedgerFact | None]:
        query = sa.select(self._ledger).where(self._ledger.c.request_id.in_(request_ids))
        try:
            with self._connection.begin_nested():
                known = {row.request_id: _read(row) for row in self._connection.execute(query)}
        except (sa.exc.DataError, *VALUE_ERRORS) as err:
            raise Refused(type(err).__name__) from None
        return [known.get(request_id) for request_id in request_ids]

    def pages(self, since: float) -> Iterator[list[LedgerFact]]:
        """All rows of requests that were entered since this moment, in pages."""
        ledger, last = self._ledger, ""  # the row with the identity has this id
        while True:
            page = sa.select(ledger).where(ledger.c.request_id > last).order_by(ledger.c.request_id)
            if since:
                page = page.where(ledger.c.committed_at >= datetime.fromtimestamp(since, UTC))
            facts = [_read(row) for row in self._connection.execute(page.limit(LEDGER_PAGE))]
            if not facts:
                return
            last = facts[-1].request_id
            yield facts


def _read(row: Any) -> LedgerFact:
    at: datetime = row.committed_at if row.committed_at.tzinfo else row.committed_at.replace(tzinfo=UTC)
    returned = None if row.returned is None else json.loads(row.returned)
    mark = returned_mark(returned)
    return LedgerFact(row.request_id, row.status, row.digest, row.batch_id, at.timestamp(), mark, returned)
