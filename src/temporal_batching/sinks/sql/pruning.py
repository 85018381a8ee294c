"""Deleting old request ids from a ledger, in small transactions.

The ledger has no index on its times, and needs none: it is walked once along its primary key, a page in each
transaction. A page takes no longer than a batch of the same size, and a process that is killed has lost one page.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa

from temporal_batching.sinks.ledger import IDENTITY_ID, LedgerStatus

PAGE = 5_000
"""Ids that one transaction looks at, and deletes at the most."""


@dataclass(frozen=True)
class Pruned:
    """What was done to a ledger so far.

    Attributes:
        seen: Ids that were looked at.
        old: Ids that were old, and are deleted unless it was a dry run.
    """

    seen: int = 0
    old: int = 0


def count_ids(engine: sa.Engine, ledger: sa.Table) -> int:
    """The number of ids in a ledger, to show how far a run is."""
    with engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).where(ledger.c.request_id != IDENTITY_ID)) or 0


def prune_ledger(
    engine: sa.Engine,
    ledger: sa.Table,
    before: datetime,
    *,
    dry_run: bool = False,
    page: int = PAGE,
    progress: Callable[[Pruned], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Pruned:
    """Deletes the ids that were entered before a moment. The row with the ledger's identity stays.

    An id that is deleted is not known any more: a request that is submitted with it is applied again. So ``before``
    must be earlier than anything that may still be submitted or retried.

    Args:
        engine: Of the ledger's database. The role needs SELECT and DELETE on the ledger.
        ledger: The ledger's definition.
        before: Entries of this moment and later stay; with its time zone.
        dry_run: Counts, and deletes nothing.
        page: Ids in one transaction.
        progress: Called after each transaction.
        should_stop: Asked before each transaction; True ends the run. The next run deletes what is left.

    Returns:
        What was done.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: The database cannot do it. What was deleted until then stays deleted.
    """
    done, last = Pruned(), IDENTITY_ID
    old = sa.and_(ledger.c.committed_at < before.astimezone(UTC), ledger.c.status != LedgerStatus.IDENTITY)
    while not should_stop():
        with engine.begin() as connection:
            ids = sa.select(ledger.c.request_id).where(ledger.c.request_id > last).order_by(ledger.c.request_id)
            bounds = ids.limit(page).subquery()
            seen, end = connection.execute(
                sa.select(sa.func.count(), sa.func.max(bounds.c.request_id)).select_from(bounds)
            ).one()
            if not seen:
                return done
            # A row that an attempt renews in the meantime is not old any more: the condition is checked under its lock.
            within = sa.and_(ledger.c.request_id > last, ledger.c.request_id <= end, old)
            if dry_run:
                found = connection.scalar(sa.select(sa.func.count()).select_from(ledger).where(within)) or 0
            else:
                found = connection.execute(sa.delete(ledger).where(within)).rowcount
        done, last = Pruned(done.seen + seen, done.old + found), end
        progress(done)
    return done
