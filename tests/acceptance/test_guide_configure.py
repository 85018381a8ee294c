"""What docs/how-to/configure.md shows of files, flags and variables holds for the commands."""

from __future__ import annotations

import itertools
import json
import re
import shlex
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from temporalio.client import Client
from tests.acceptance.conftest import ROOT
from tests.support.databases import TestDatabase
from tests.support.waiting import assert_eventually

from temporal_batching import BatchClient, RejectCode, WriteRejected
from temporal_batching.settings import load
from temporal_batching.testing.servers import FAST, temporal_server

if TYPE_CHECKING:
    from tests.acceptance.conftest import Start

pytestmark = pytest.mark.documents

PAGE = (ROOT / "docs/how-to/configure.md").read_text(encoding="utf-8")
UPDATES = (ROOT / "docs/how-to/update-and-count.md").read_text(encoding="utf-8")
FIRST, TABLES = re.findall(r"^```toml\b[^\n]*\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
FLAGS, _VARIABLES = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
VARIABLES = _VARIABLES.strip().splitlines()
SINK = "postgresql://app@localhost/app"


def test_the_file_with_settings_is_understood(tmp_path: Path) -> None:
    (tmp_path / "batching.toml").write_text(FIRST, encoding="utf-8")
    settings = load(config=tmp_path / "batching.toml")
    assert (settings.name, settings.sink_url()) == ("main", "sqlite:///payments.db")
    assert (settings.policy().max_batch_size, settings.policy().linger) == (200, timedelta(milliseconds=500))


def test_the_ways_to_name_tables_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "tables.toml").write_text(TABLES, encoding="utf-8")
    by_file = load(config=tmp_path / "tables.toml").tables
    for line in VARIABLES:
        (assignment,) = shlex.split(line)[1:]
        assert load({"tables": assignment.removeprefix("BATCHING_TABLES=")}).tables == by_file
    words = itertools.pairwise(shlex.split(FLAGS))
    assert load({"tables": [after for flag, after in words if flag == "--table"]}).tables == by_file


def test_the_rules_of_updates_and_counters_are_the_same_in_a_file(tmp_path: Path) -> None:
    rules, toml = (
        re.search(rf"^```{language}\n(.*?)^```$", UPDATES, re.MULTILINE | re.DOTALL) for language in ("python", "toml")
    )
    assert rules is not None
    assert toml is not None
    scope: dict[str, Any] = {"SqlSink": lambda url, tables: (url, tables)}
    exec(rules[1].replace("import SqlSink, TableRule", "import TableRule"), scope)
    (tmp_path / "orders.toml").write_text(toml[1], encoding="utf-8")
    settings = load(config=tmp_path / "orders.toml")
    url, tables = scope["sink"]
    assert settings.sink_url() == url
    by_file = {name: replace(rule, operations=set(rule.operations)) for name, rule in (settings.tables or {}).items()}
    assert by_file == {name: replace(rule, operations=set(rule.operations)) for name, rule in tables.items()}


@pytest.fixture(scope="module")
async def quiet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A server on which no other test runs a batcher by the name that the page uses."""
    directory = tmp_path_factory.mktemp("configure")
    async with temporal_server(directory=directory, port=0, ui_port=0, options=FAST) as server:
        yield server.address


@pytest.mark.parametrize("way", ["file", "flag", "variable"])
async def test_the_tables_and_rules_of_the_page_hold_by_file_flag_and_variable(
    way: str, quiet: str, start: Start, postgresql: TestDatabase, tmp_path: Path
) -> None:
    postgresql.execute(
        "CREATE TABLE entries (n integer);;CREATE TABLE secrets (n integer)"
        ";;CREATE TABLE balances (account text PRIMARY KEY, n integer)"
    )
    file = tmp_path / "tables.toml"
    file.write_text(TABLES.replace(SINK, postgresql.url), encoding="utf-8")
    others = {"TEMPORAL_ADDRESS": quiet, "BATCHING_NAME": way, "BATCHING_LINGER": "100ms"}
    if way == "file":
        worker = await start("temporal-batching", "worker", "--config", str(file), **others)
    elif way == "flag":
        worker = await start(*shlex.split(FLAGS.replace("sqlite:///app.db", shlex.quote(postgresql.url))), **others)
    else:
        tables = shlex.split(VARIABLES[0])[1].removeprefix("BATCHING_TABLES=")
        worker = await start("batcher worker", BATCHING_SINK=postgresql.url, BATCHING_TABLES=tables, **others)
    await worker.says("Batcher")
    writer = BatchClient(await Client.connect(quiet), way)
    for number in (1, 2):
        await writer.write("balances", {"account": "a", "n": number}, request_id=f"b-{number}")
    await writer.write("entries", {"n": 1})
    with pytest.raises(WriteRejected, match="there is balances, entries") as rejected:
        await writer.write("secrets", {"n": 1})
    assert rejected.value.confirmation is not None
    assert rejected.value.confirmation.code == RejectCode.UNKNOWN_TABLE
    assert postgresql.rows("SELECT account, n FROM balances") == [("a", 2)], worker.output
    if way == "file":
        await _the_other_commands_read_the_same_file(start, file, others)


async def _the_other_commands_read_the_same_file(start: Start, file: Path, variables: dict[str, str]) -> None:
    async def audited() -> None:
        audit = await start("temporal-batching", "audit", "--json", "--complete", "--config", str(file), **variables)
        await audit.ends()
        report = json.loads(audit.lines[-1])
        assert (report["holds"], report["written"]) == (True, 3), audit.output

    await assert_eventually(audited, within=30)
    lookup = await start("temporal-batching", "lookup", "b-2", "--config", str(file), **variables)
    assert await lookup.ends() == 0, lookup.output
    letters = await start("temporal-batching", "dead-letters", "--config", str(file), **variables)
    assert (await letters.ends(), letters.lines) == (0, ["No dead letters."])
