"""Confirmations that arrive in a workflow by signal, handed to the writes that wait for them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from temporalio import workflow

from temporal_batching.contract import SIGNAL_CONFIRMATION, Confirmation


class Inbox:
    """One per workflow run: the handler of the signal ``write_confirmation``."""

    def __init__(self) -> None:
        self._expected: defaultdict[str, list[asyncio.Future[Confirmation]]] = defaultdict(list)

    @classmethod
    def of_this_workflow(cls) -> Inbox:
        """The run's inbox, set up by the first write that goes by signal.

        Raises:
            RuntimeError: The workflow has a handler of its own for the signal.
        """
        handler = workflow.get_signal_handler(SIGNAL_CONFIRMATION)
        if handler is None:
            inbox = cls()
            workflow.set_signal_handler(SIGNAL_CONFIRMATION, inbox.receive)
            return inbox
        owner = getattr(handler, "__self__", None)
        if not isinstance(owner, Inbox):
            raise RuntimeError(
                f"this workflow handles the signal {SIGNAL_CONFIRMATION!r} itself; a BatchWriter with via='signal' "
                "needs it"
            )
        return owner

    @contextmanager
    def expect(self, request_id: str) -> Iterator[asyncio.Future[Confirmation]]:
        """A future for the confirmation of a request. A confirmation that no write expects is dropped."""
        arrival: asyncio.Future[Confirmation] = asyncio.get_running_loop().create_future()
        self._expected[request_id].append(arrival)
        try:
            yield arrival
        finally:
            self._expected[request_id].remove(arrival)
            if not self._expected[request_id]:
                del self._expected[request_id]

    def receive(self, confirmations: list[Confirmation]) -> None:
        for confirmation in confirmations:
            for arrival in self._expected.get(confirmation.request_id, ()):
                if not arrival.done():
                    arrival.set_result(confirmation)
