"""What the Web UI shows of a caller: its writes, with the batch and the shard of each, below its own details."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from temporalio import workflow

from temporal_batching.contract import Confirmation, ParcelReceipt
from temporal_batching.errors import WriteError
from temporal_batching.routing import batcher_workflow_id
from temporal_batching.web_ui import code, show_details, workflow_path, workflows_path

SHOWN = 10
"""Writes that are listed: the latest that are settled, and as many that wait. All are counted."""

Settle = Callable[[Confirmation], Confirmation]


@dataclass(frozen=True, slots=True)
class SettledWrite:
    """A write that is listed.

    Attributes:
        subject: Its request id, or the number of requests that went together.
        outcome: What its caller received.
        batcher: The batcher's name.
        batch_id: Its batch; empty if it got into none.
        shard: The batch's.
    """

    subject: str
    outcome: str
    batcher: str
    batch_id: str = ""
    shard: int = 0


class WriteLog:
    """The writes of one workflow run, in memory: the counts of all, and the latest.

    Args:
        namespace: The workflow's.

    Attributes:
        elsewhere: Batchers of other namespaces: a caller does not know which, so nothing links to them.
    """

    def __init__(self, namespace: str) -> None:
        self.elsewhere: set[str] = set()
        self._namespace = namespace
        self._settled: deque[SettledWrite] = deque(maxlen=SHOWN)
        self._outcomes: Counter[str] = Counter()
        # By subject and batcher, in their order; one id may be written by several calls at a time.
        self._waiting: Counter[tuple[str, str]] = Counter()

    @classmethod
    def of_this_run(cls) -> WriteLog:
        """The run's log. Its first write has the Web UI show it."""
        loop = asyncio.get_running_loop()
        log = _logs.get(loop)
        if log is None:
            log = _logs[loop] = cls(workflow.info().namespace)
            show_details(log.details)
        return log

    @contextmanager
    def write(self, batcher: str, request_id: str) -> Iterator[Settle]:
        """A write that waits for the length of a block; a `WriteError` that ends the block is its outcome.

        Yields:
            What to call with the confirmation; it returns it.
        """
        with self._waits(code(request_id), batcher):
            try:
                yield lambda confirmation: self._settle(batcher, request_id, confirmation)
            except WriteError as err:
                if (confirmation := getattr(err, "confirmation", None)) is not None:
                    self._settle(batcher, request_id, confirmation)
                else:
                    kind = type(err).__name__
                    self._add(SettledWrite(code(request_id), kind, batcher), {kind: 1})
                raise

    @contextmanager
    def parcel(self, batcher: str, requests: int) -> Iterator[Callable[[ParcelReceipt], ParcelReceipt]]:
        """Requests that wait together for the length of a block.

        Yields:
            What to call with the receipt; it returns it.
        """
        subject = f"{requests:,} request{'s' if requests > 1 else ''}"

        def settle(receipt: ParcelReceipt) -> ParcelReceipt:
            outcomes = Counter(str(outcome.kind) for outcome in receipt.others.values())
            outcomes["written"] += requests - outcomes.total()
            self._add(SettledWrite(subject, _counted(outcomes), batcher, receipt.batch_id, receipt.shard), outcomes)
            return receipt

        with self._waits(subject, batcher):
            yield settle

    def details(self) -> str:
        """The log as Markdown."""
        wait = f"{self._waiting.total():,} wait for a confirmation"
        lines = [f"**Batched writes**: {_counted(self._outcomes) or 'none settled'}; {wait}.", ""]
        lines += [f"- {write.subject}: {self._end(write)}" for write in reversed(self._settled)]
        lines += [f"- {subject}: waits for {self._batcher(batcher)}" for subject, batcher in [*self._waiting][:SHOWN]]
        if (more := len(self._waiting) - SHOWN) > 0:
            lines.append(f"- and {more:,} more")
        return "\n".join(lines)

    def _end(self, write: SettledWrite) -> str:
        if not write.batch_id:
            return f"{write.outcome}, in no batch of {self._batcher(write.batcher)}"
        shard = batcher_workflow_id(write.batcher, write.shard)
        if write.batcher in self.elsewhere:
            return f"{write.outcome}, batch {code(write.batch_id)} of {shard} in another namespace"
        return f"{write.outcome}, batch {code(write.batch_id)} of [{shard}]({workflow_path(self._namespace, shard)})"

    def _batcher(self, name: str) -> str:
        """All shards of a batcher: a caller by activity does not know which one a request went to."""
        if name in self.elsewhere:
            return f"the batcher {name} in another namespace"
        return f"[the batcher {name}]({workflows_path(self._namespace, f'batcher-{name}-')})"

    @contextmanager
    def _waits(self, subject: str, batcher: str) -> Iterator[None]:
        waiting = (subject, batcher)
        self._waiting[waiting] += 1
        try:
            yield
        finally:
            self._waiting[waiting] -= 1
            if not self._waiting[waiting]:
                del self._waiting[waiting]

    def _settle(self, batcher: str, request_id: str, confirmation: Confirmation) -> Confirmation:
        outcome, batch_id = str(confirmation.outcome), confirmation.batch_id
        self._add(SettledWrite(code(request_id), outcome, batcher, batch_id, confirmation.shard), {outcome: 1})
        return confirmation

    def _add(self, write: SettledWrite, outcomes: dict[str, int]) -> None:
        self._settled.append(write)
        self._outcomes.update(outcomes)


_logs: WeakKeyDictionary[asyncio.AbstractEventLoop, WriteLog] = WeakKeyDictionary()
"""Each run has an event loop of its own, and so has each replay of it."""


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()) if count)
