"""The one line that the log has for each batch that is settled."""

from __future__ import annotations

from temporal_batching.contract import FlushInput
from temporal_batching.flush.settlement import BatchResult
from temporal_batching.logs import about, logger


def log_settled(flush: FlushInput, result: BatchResult, *, requests: int, seconds: float) -> None:
    """Says what became of a batch. A warning if nothing did, and all of it is to be retried.

    Args:
        flush: The batch.
        result: What became of it.
        requests: How many are in it.
        seconds: How long the flush took, with the confirmations.
    """
    outcomes = dict(result.counts)
    waiting = f"{len(result.requeued)} to be retried" if result.requeued else ""
    unknown = f"{len(result.unknown)} unknown" if result.unknown else ""
    known = [f"{count} {outcome}" for outcome, count in outcomes.items()]
    answered = bool(known or unknown)
    fields = about(
        batch_id=flush.batch_id,
        batcher=flush.batcher,
        shard=flush.shard,
        trigger=str(flush.trigger),
        requests=requests,
        records=result.records,
        outcomes=outcomes,
        requeued=len(result.requeued),
        unknown=len(result.unknown),
        seconds=round(seconds, 4),
        waited=flush.waited,
        attempt=flush.attempt + 1,
    )
    log = logger.info if answered else logger.warning
    log(
        "Batch %s %s: shard %d, by %s, %d requests, %d records: %s; %.3f s, attempt %d",
        flush.batch_id,
        "settled" if answered else "not settled",
        flush.shard,
        flush.trigger,
        requests,
        result.records,
        ", ".join(filter(None, [*known, waiting, unknown])) or "nothing",
        seconds,
        flush.attempt + 1,
        extra=fields,
    )
