"""A database that cannot be used is told by its address, never by its password; the audit finds what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from temporal_batching.cli.console import CommandError
from temporal_batching.cli.database import prepare_database, sync_engine
from temporal_batching.cli.demo.audit import audit
from temporal_batching.cli.demo.payments import find_examples, plausible_payments, read_csv
from temporal_batching.testing.servers import free_port


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:s3cret@127.0.0.1:{port}/ledger",
        "postgresql+psycopg://ann@127.0.0.1:{port}/ledger?password=s3cret",
        "sqlite:////no/such/directory/s.db",
        "postgresql://ann:s3cret@127.0.0.1:noport/ledger",
        "mysql://ann:s3cret@127.0.0.1/ledger",
    ],
)
async def test_a_database_that_cannot_be_used_is_one_line_without_secrets(url: str) -> None:
    with pytest.raises(CommandError) as error:
        await prepare_database(url.format(port=free_port()), create_tables=True)
    message = str(error.value)
    assert "\n" not in message
    assert "s3cret" not in message
    assert "127.0.0.1" in message or "/no/such/directory/s.db" in message


async def test_the_demos_table_is_made_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/p.db"
    await prepare_database(url, create_tables=True)
    await prepare_database(url, create_tables=True)
    engine = sync_engine(url)
    assert sa.inspect(engine).get_table_names() == ["entries"]
    engine.dispose()


def test_the_same_seed_gives_the_same_payments_and_the_example_file() -> None:
    examples = find_examples()
    assert examples is not None
    rows = list(read_csv(examples))
    assert rows == list(plausible_payments(len(rows)))
    assert len(rows) == 500
    assert len({row["payment_id"] for row in rows}) == 500
    assert any(not row["memo"].isascii() for row in rows)


Change = Callable[[sa.Connection, dict[str, dict[str, Any]]], None]


def _nothing(_: sa.Connection, __: dict[str, dict[str, Any]]) -> None:
    pass


def _lose_a_row(connection: sa.Connection, _: dict[str, dict[str, Any]]) -> None:
    connection.execute(sa.text("DELETE FROM entries WHERE payment_id = 'P-000001'"))


def _double_a_row(connection: sa.Connection, _: dict[str, dict[str, Any]]) -> None:
    columns = "payment_id, account, amount, fee, currency, booked_at, memo"
    connection.execute(sa.text(f"INSERT INTO entries ({columns}) SELECT {columns} FROM entries LIMIT 1"))


def _change_an_amount(connection: sa.Connection, _: dict[str, dict[str, Any]]) -> None:
    connection.execute(sa.text("UPDATE entries SET amount = amount + 0.01 WHERE payment_id = 'P-000002'"))


def _forget_in_the_ledger(connection: sa.Connection, _: dict[str, dict[str, Any]]) -> None:
    connection.execute(sa.text("DELETE FROM batching_ledger WHERE request_id = 'P-000003'"))


def _tell_another_batch(_: sa.Connection, results: dict[str, dict[str, Any]]) -> None:
    results["P-000002"]["batch_id"] = "main-0/99"


def _fail_one_that_was_written(_: sa.Connection, results: dict[str, dict[str, Any]]) -> None:
    results["P-000001"] = {"ok": False, "error_type": "WriteNotConfirmed"}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_nothing, None),
        (_lose_a_row, "P-000001: confirmed, and 0 rows"),
        (_double_a_row, "P-000001: confirmed, and 2 rows"),
        (_change_an_amount, "P-000002: the amount is not what was sent"),
        (_forget_in_the_ledger, "P-000003: confirmed, and not in the ledger"),
        (_tell_another_batch, "P-000002: told batch main-0/99, the ledger says main-0/1"),
        (_fail_one_that_was_written, "P-000001: not confirmed (WriteNotConfirmed)"),
    ],
)
async def test_the_audit_finds_every_contradiction(change: Change, problem: str | None, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/p.db"
    await prepare_database(url, create_tables=True)
    payments = list(plausible_payments(3))
    results: dict[str, dict[str, Any]] = {p["payment_id"]: {"ok": True, "batch_id": "main-0/1"} for p in payments}
    engine = sync_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE batching_ledger (request_id TEXT PRIMARY KEY, batch_id TEXT)"))
        for payment in payments:
            connection.execute(
                sa.text("INSERT INTO batching_ledger VALUES (:id, 'main-0/1')"), {"id": payment["payment_id"]}
            )
            connection.execute(
                sa.text(
                    "INSERT INTO entries (payment_id, account, amount, fee, currency, booked_at, memo) "
                    "VALUES (:payment_id, :account, :amount, 1, :currency, '2026-03-02 06:00:42.000000', :memo)"
                ),
                payment,
            )
        change(connection, results)
    engine.dispose()
    found = audit(url, payments, results)
    assert found.problems == ([problem] if problem else [])
    assert found.duplicates == (1 if change is _double_a_row else 0)
