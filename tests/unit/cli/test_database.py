"""A database that cannot be used is named by its address, never by its password."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from temporal_batching.cli.console import CommandError
from temporal_batching.cli.database import prepare_database, sync_engine
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


def test_the_same_seed_gives_the_example_file() -> None:
    program = Path(__file__).parents[3] / "examples" / "make_payments.py"
    done = subprocess.run([sys.executable, str(program)], capture_output=True, check=True, timeout=60)
    assert done.stdout == program.with_name("payments.csv").read_bytes()
