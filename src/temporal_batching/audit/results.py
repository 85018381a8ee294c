"""Reads how calls ended, from results, failures and confirmations, and stores it as facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from temporalio.api.common.v1 import Payloads
from temporalio.api.failure.v1 import Failure

from temporal_batching.audit.facts import CallFact, ReadCounts
from temporal_batching.audit.payloads import PayloadReader, SentRequests
from temporal_batching.audit.rules import CallResult
from temporal_batching.audit.store import FactStore
from temporal_batching.contract import OutcomeKind
from temporal_batching.errors import WriteError, WriteExpired, WriteNotSubmitted, WriteRejected
from temporal_batching.sinks.ledger import request_id_fault, returned_mark
from temporal_batching.writers.failures import write_error


class ResultRecorder:
    """Stores the results of calls.

    Args:
        payloads: Decodes results.
        store: Where the facts are stored.
        counts: Counts the payloads that cannot be read.
        since: Seconds since the epoch; requests that were sent earlier are not checked.
    """

    def __init__(self, payloads: PayloadReader, store: FactStore, counts: ReadCounts, *, since: float) -> None:
        self._payloads = payloads
        self._store = store
        self._counts = counts
        self._since = since

    def add(self, call: CallFact, at: float) -> None:
        """Stores a call.

        Args:
            call: The call.
            at: When it was sent, or the earliest that is known of it.
        """
        if request_id_fault(call.request_id) is None:  # a request with an invalid id is never written
            self._store.add_call(call, judged=at >= self._since)

    def add_all(self, caller: str, sent: SentRequests, result: CallResult) -> None:
        """Stores the same result for all requests."""
        for request in sent.requests:
            self.add(CallFact(caller, request.request_id, request.digest, result, sent=sent.at), sent.at)

    async def completed(self, caller: str, sent: SentRequests, result: Payloads, ended: float) -> None:
        """Stores the result of an activity that completed at this time, in seconds since the epoch."""
        decoded = await self._payloads.decode(result)
        if not isinstance(decoded, Mapping):
            self.add_all(caller, sent, CallResult.UNKNOWN)
        elif sent.parcel:
            self._add_parcel(caller, sent, decoded, ended)
        else:
            self._add_confirmed(caller, sent, decoded, ended)

    def _add_parcel(self, caller: str, sent: SentRequests, receipt: Mapping[str, Any], ended: float) -> None:
        others, batch_id = receipt.get("others"), str(receipt.get("batch_id") or "")
        returned = receipt.get("returned") or {}
        for position, request in enumerate(sent.requests):
            other = others.get(str(position)) if isinstance(others, Mapping) else None
            kind = other["kind"] if other else OutcomeKind.WRITTEN
            code = str(other.get("code") or "") if other else ""
            mark = returned_mark(returned.get(str(position)) if isinstance(returned, Mapping) else None)
            complete = bool(mark) or not receipt.get("unread")
            call = CallFact(
                caller,
                request.request_id,
                request.digest,
                _result(kind),
                code,
                batch_id,
                returned=mark,
                complete=complete,
                sent=sent.at,
                ended=ended,
            )
            self.add(call, sent.at)

    def _add_confirmed(self, caller: str, sent: SentRequests, confirmation: Mapping[str, Any], ended: float) -> None:
        for request in sent.requests:
            confirmed = str(confirmation.get("request_id") or request.request_id)
            if confirmed != request.request_id:
                # A reset copied the event: an id that contains the run id is then that of another run.
                self._store.copy_content(request.request_id, request.digest, confirmed)
            code, batch_id = str(confirmation.get("code") or ""), str(confirmation.get("batch_id") or "")
            result = _result(confirmation.get("outcome"))
            mark = returned_mark(confirmation.get("returned"))
            call = CallFact(
                caller, confirmed, request.digest, result, code, batch_id, returned=mark, sent=sent.at, ended=ended
            )
            self.add(call, sent.at)

    async def failed(self, caller: str, sent: SentRequests, failure: Failure) -> None:
        """Stores the result of an activity that failed, as `BatchWriter` would report it to its caller."""
        try:
            cause = await self._payloads.converter.decode_failure(failure)
        except Exception:  # a codec may raise anything on a payload that it did not encode
            self._counts.unreadable += 1
            self.add_all(caller, sent, CallResult.NOT_CONFIRMED)
            return
        for request in sent.requests:
            try:
                error = write_error(request.request_id, cause, sent.timeout)
            except ValueError:  # a code from a later release
                error = WriteError(str(cause))
            confirmation = error.confirmation
            code = str(confirmation.code or "") if confirmation else ""
            result = _error_result(error)
            self.add(CallFact(caller, request.request_id, request.digest, result, code, sent=sent.at), sent.at)


def _result(kind: Any) -> CallResult:
    return CallResult(kind) if kind in set(OutcomeKind) else CallResult.UNKNOWN


def _error_result(error: WriteError) -> CallResult:
    if isinstance(error, WriteRejected):
        return CallResult.REJECTED
    if isinstance(error, WriteExpired):
        return CallResult.EXPIRED
    return CallResult.NOT_SUBMITTED if isinstance(error, WriteNotSubmitted) else CallResult.NOT_CONFIRMED
