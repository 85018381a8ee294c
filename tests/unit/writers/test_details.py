"""What the Web UI shows of a caller's writes: batch and shard of each, and what waits."""

from __future__ import annotations

import pytest

from temporal_batching import Confirmation, WriteNotConfirmed, WriteRejected
from temporal_batching.contract import Outcome, OutcomeKind, ParcelReceipt, RejectCode
from temporal_batching.writers.details import SHOWN, WriteLog

SHARD_2 = "[batcher-main-2](/namespaces/default/workflows/batcher-main-2)"
BATCHER = (
    "[the batcher main](/namespaces/default/workflows?query=%60WorkflowId%60%20STARTS_WITH%20%22batcher-main-%22"
    "%20AND%20%60ExecutionStatus%60%3D%22Running%22)"
)


def written(request_id: str) -> Confirmation:
    return Confirmation(request_id, OutcomeKind.WRITTEN, "main-2.3f9a2c71/17", 4, 2)


def test_a_confirmed_write_names_its_batch_and_links_to_its_shard() -> None:
    log = WriteLog("default")
    with log.write("main", "order-1") as settle:
        assert settle(written("order-1")) == written("order-1")
    assert log.details().splitlines() == [
        "**Batched writes**: 1 written; 0 wait for a confirmation.",
        "",
        f"- `order-1`: written, batch `main-2.3f9a2c71/17` of {SHARD_2}",
    ]


def test_a_write_that_waits_links_to_the_shards_of_its_batcher() -> None:
    log = WriteLog("default")
    with log.write("main", "order-1"), log.write("main", "order-1"), log.parcel("main", 100):
        assert log.details().splitlines() == [
            "**Batched writes**: none settled; 3 wait for a confirmation.",
            "",
            f"- `order-1`: waits for {BATCHER}",
            f"- 100 requests: waits for {BATCHER}",
        ]
    assert "0 wait" in log.details()


def test_nothing_links_to_a_batcher_whose_namespace_is_not_known() -> None:
    log = WriteLog("default")
    log.elsewhere.add("main")
    with log.write("main", "order-1") as settle:
        settle(written("order-1"))
    with log.write("main", "order-2"):
        assert log.details().splitlines()[2:] == [
            "- `order-1`: written, batch `main-2.3f9a2c71/17` of batcher-main-2 in another namespace",
            "- `order-2`: waits for the batcher main in another namespace",
        ]


def test_a_write_that_fails_has_its_outcome_and_its_error_is_raised() -> None:
    log = WriteLog("default")
    rejected = Confirmation("a", OutcomeKind.REJECTED, "main-2.3f9a2c71/17", 4, 2, code=RejectCode.TYPE, reason="no")
    with pytest.raises(WriteRejected), log.write("main", "a"):
        raise WriteRejected("no", request_id="a", confirmation=rejected)
    with pytest.raises(WriteNotConfirmed), log.write("main", "b"):
        raise WriteNotConfirmed("late", request_id="b")
    assert log.details().splitlines() == [
        "**Batched writes**: 1 WriteNotConfirmed, 1 rejected; 0 wait for a confirmation.",
        "",
        f"- `b`: WriteNotConfirmed, in no batch of {BATCHER}",
        f"- `a`: rejected, batch `main-2.3f9a2c71/17` of {SHARD_2}",
    ]


def test_a_parcel_counts_each_of_its_requests() -> None:
    log = WriteLog("default")
    with log.parcel("main", 3) as settle:
        settle(ParcelReceipt("main-2.3f9a2c71/17", 3, 2, others={"1": Outcome.rejected(RejectCode.TYPE, "no")}))
    assert f"- 3 requests: 1 rejected, 2 written, batch `main-2.3f9a2c71/17` of {SHARD_2}" in log.details()
    assert "**Batched writes**: 1 rejected, 2 written;" in log.details()


def test_all_are_counted_and_the_latest_are_listed() -> None:
    log = WriteLog("default")
    for n in range(1_000):
        with log.write("main", f"r{n}") as settle:
            settle(written(f"r{n}"))
    lines = log.details().splitlines()
    assert "1,000 written" in lines[0]
    assert len(lines) == 2 + SHOWN
    assert lines[2].startswith("- `r999`")
