"""`ConsoleSink`: prints each batch. For demonstrations, and to inspect what a batcher would write."""

from __future__ import annotations

import json
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TextIO

from temporal_batching.contract import (
    INSERT,
    OPERATIONS,
    Outcome,
    Record,
    RejectCode,
    Returned,
    ReturnedRow,
    WriteRequest,
)
from temporal_batching.errors import SinkUnavailable
from temporal_batching.sinks.base import Batch, Sink
from temporal_batching.sinks.ledger import LedgerEntry, LedgerStatus, NotJson, digest, judge, request_id_fault
from temporal_batching.sinks.returned import has_bad_reference, resolve_records


class ConsoleSink(Sink):
    """Prints each batch as a few lines of plain text, and answers `written`.

    It remembers a bounded number of request ids, in its process only: exactly-once holds as long as an id is
    remembered.

    Example:
        ```python
        from temporal_batching import BatcherPlugin, ConsoleSink

        plugin = BatcherPlugin(ConsoleSink())
        ```
    """

    takes_references = True
    operations = OPERATIONS

    def __init__(self, stream: TextIO | None = None, *, remember: int = 10_000) -> None:
        """Creates the sink.

        Args:
            stream: Where the batches are printed; by default the value of ``sys.stdout`` at that moment.
            remember: The number of the latest request ids that are kept to recognise duplicates.
        """
        self._stream = stream
        self._remember = remember
        self._known: OrderedDict[str, LedgerEntry] = OrderedDict()
        self._clock: Callable[[], float] = time.time

    async def write(self, batch: Batch) -> Sequence[Outcome]:
        outcomes: list[Outcome] = []
        fresh: dict[str, LedgerEntry] = {}
        lines: list[str] = []
        records = 0
        for request in batch:
            outcome, entry = self._judge(request, batch.id, fresh)
            if entry is not None:
                fresh[entry.request_id] = entry
                records += len(request.records)
            outcomes.append(outcome)
            lines += _request_lines(request, outcome if entry is None else None)
        head = (
            f"batch {_word(batch.id) or '(no id)'}  trigger={batch.trigger}  "
            f"{_count(len(batch), 'request')}, {_count(records, 'record')}"
        )
        self._print([head, *lines])
        # Only printed requests are remembered: a closed pipe must not turn the next attempt into a duplicate.
        self._known.update(fresh)
        while len(self._known) > self._remember:
            self._known.popitem(last=False)
        return outcomes

    def _judge(
        self, request: WriteRequest, batch_id: str, fresh: dict[str, LedgerEntry]
    ) -> tuple[Outcome, LedgerEntry | None]:
        if fault := request_id_fault(request.request_id) or has_bad_reference(request.records):
            return Outcome.rejected(RejectCode.INVALID, fault), None
        try:
            mark = digest(request.records)
        except NotJson as err:
            return Outcome.rejected(RejectCode.INVALID, str(err)), None
        same_id = fresh.get(request.request_id)
        # The second request with one id in a batch is a duplicate; "" distinguishes it from an earlier attempt.
        answer = judge(same_id, mark, "") if same_id else judge(self._known.get(request.request_id), mark, batch_id)
        if answer is not None:
            return answer, None
        now = self._clock()
        if request.expires_at is not None and request.expires_at <= now:
            return Outcome.expired(), None
        at = datetime.fromtimestamp(now, UTC)
        returned = resolve_records(request.records, lambda record, values: values)
        entry = LedgerEntry(request.request_id, LedgerStatus.WRITTEN, batch_id, at, mark, returned)
        return Outcome.written(returned), entry

    async def read_returned(self, request_ids: Sequence[str]) -> Mapping[str, Sequence[ReturnedRow | None]]:
        known = {i: self._known[i] for i in request_ids if i in self._known}
        return {i: entry.returned for i, entry in known.items() if entry.returned is not None}

    def _print(self, lines: list[str]) -> None:
        stream = self._stream or sys.stdout
        text = "".join(line + "\n" for line in lines)
        encoding = getattr(stream, "encoding", None) or "utf-8"
        try:
            # One call, so that batches of several shards do not mix. Escapes are for terminals that are not UTF-8.
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            stream.flush()
        except (OSError, ValueError) as err:
            raise SinkUnavailable(f"the console cannot be written to: {err}", in_doubt=False) from err


def _request_lines(request: WriteRequest, unprinted: Outcome | None) -> Iterator[str]:
    name = _word(request.request_id)
    if unprinted is not None:
        code = f" ({unprinted.code})" if unprinted.code else ""
        yield f"  {name}  {unprinted.kind}{code}"
        return
    key = f"  key={_word(request.key)}" if request.key else ""
    yield f"  {name}{key}"
    for record in request.records:
        yield f"    {_record(record)}"


def _record(record: Record) -> str:
    values = " ".join(f"{_word(name)}={_json(value)}" for name, value in record.values.items())
    operation = "" if record.operation == INSERT else f"{record.operation} "
    return f"{operation}{_word(record.table)}  {values}".rstrip()


def _json(value: Any) -> str:
    if isinstance(value, Returned):
        return f"<{value.column} of record {value.record}>"
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    # JSON escapes only ASCII's control characters. A terminal interprets others too, and bidi marks reorder a line.
    return text if text.isprintable() else json.dumps(value, separators=(",", ":")).replace("\x7f", "\\u007f")


def _word(text: str) -> str:
    """The text itself, or its JSON if it has spaces or characters that could control a terminal."""
    return text if text.isprintable() and " " not in text else json.dumps(text).replace("\x7f", "\\u007f")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
