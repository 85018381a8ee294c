"""The content of parcels by reference, brought to the flush: from its own process, else from the activity's input."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from temporalio.client import Client

from temporal_batching.contents import ContentStore, Missing, read_parcel_of
from temporal_batching.wire.parcels import ParcelReference, ParcelSource
from temporal_batching.wire.submission import Submission

FETCHES_AT_ONCE = 8
"""Parcels that one flush reads from Temporal at the same time: each is a message of up to 2 MiB."""


@dataclass(frozen=True, slots=True)
class Contents:
    """A batch, its parcels with their contents.

    Attributes:
        submissions: In their order; those that were by reference with their content.
        missing: Why a submission has none, by its position.
    """

    submissions: list[Submission]
    missing: dict[int, Missing] = field(default_factory=dict)


Fetch: TypeAlias = Callable[[ParcelSource], Awaitable[str | Missing]]
"""Reads a packed parcel from the activity in whose input it lies."""


async def bring_contents(submissions: Sequence[Submission], store: ContentStore, client: Client) -> Contents:
    """Brings the content of each parcel by reference."""
    slots = asyncio.Semaphore(FETCHES_AT_ONCE)

    async def bring(submission: Submission) -> Submission | Missing:
        if not isinstance(submission.body, ParcelReference):
            return submission
        digest = submission.body.announced.digest
        kept = store.get(digest)
        if kept is not None:
            return submission.with_content(kept)
        async with slots:
            return await fetch_content(submission, lambda source: read_parcel_of(client, source))

    if not any(isinstance(submission.body, ParcelReference) for submission in submissions):
        return Contents(list(submissions))
    return join(submissions, await asyncio.gather(*map(bring, submissions)))


def join(submissions: Sequence[Submission], brought: Sequence[Submission | Missing]) -> Contents:
    """The batch, of what was brought for each submission."""
    contents = Contents(list(submissions))
    for position, one in enumerate(brought):
        if isinstance(one, Missing):
            contents.missing[position] = one
        else:
            contents.submissions[position] = one
    return contents


async def fetch_content(submission: Submission, fetch: Fetch) -> Submission | Missing:
    """Reads a parcel's content from where it lies: any activity that waits for it has the same."""
    missing = Missing("it has no source")
    for source in _sources(submission):
        found = await fetch(source)
        if not isinstance(found, Missing):
            return submission.with_content(found)
        missing = found
        if not found.gone:
            break
    return missing


def _sources(submission: Submission) -> Iterator[ParcelSource]:
    assert isinstance(submission.body, ParcelReference)
    own = submission.body.source
    yield own
    for reply in submission.replies:
        if reply.workflow_id is None and reply.activity_id and reply.run_id:
            other = ParcelSource(reply.activity_id, reply.run_id)
            if other != own:
                yield other
