"""Passwords and keys are in no message: not of ours, not of a driver's, not in a log at any level, not in a `repr`."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from temporalio.client import Client

from temporal_batching import SqlSink
from temporal_batching.audit.check import AuditScope, check_database
from temporal_batching.audit.store import FactStore
from temporal_batching.cli.connect import connect
from temporal_batching.cli.console import CommandError
from temporal_batching.cli.database import prepare_database
from temporal_batching.errors import AuditError, BatchingError
from temporal_batching.settings import SettingsError, load
from temporal_batching.testing.servers import free_port
from tests.support.databases import TestDatabase

SECRET = "s3cr3t"
URLS = [
    f"postgresql://ann:{SECRET}@127.0.0.1:1/ledger",
    f"postgresql+psycopg://ann:{SECRET}-%40%2F%3A@127.0.0.1:1/ledger",
    f"postgresql://ann:p@{SECRET}@127.0.0.1:1/ledger",
    f"postgresql://ann:p/{SECRET}@127.0.0.1:1/ledger",
    f"postgresql://ann@127.0.0.1:1/ledger?password={SECRET}",
    f"postgresql://ann@127.0.0.1:1/ledger?sslpassword={SECRET}&sslmode=nonsense",
    f"postgresql://ann@127.0.0.1:1/ledger?passfile=/{SECRET}/x",
    f"postgresql://ann:{SECRET}@127.0.0.1:port/ledger",
    f"postgresql://ann:{SECRET}@/ledger?host=/no/such/socket",
    f"postgresql://ann:{SECRET}@nowhere.invalid/ledger",
    f"postgresql://ann:{SECRET}@127.0.0.1:1/ledger?nonsense=1",
    f"mysql://ann:{SECRET}@127.0.0.1/ledger",
]


def everything(err: BaseException) -> str:
    """An error as it may be shown or logged."""
    return "".join(traceback.format_exception(err)) + repr(err) + repr(err.args)


@pytest.mark.parametrize("url", URLS)
async def test_a_sink_that_cannot_be_opened_keeps_the_password(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(BatchingError) as caught:
        await _open(url)
    assert SECRET not in everything(caught.value)
    assert SECRET not in caplog.text


async def _open(url: str) -> None:
    sink = SqlSink(url)
    assert SECRET not in repr(sink)
    try:
        await sink.open()
    finally:
        await sink.close()


@pytest.mark.parametrize("url", URLS)
async def test_a_command_that_cannot_use_its_database_keeps_the_password(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(CommandError) as caught:
        await prepare_database(url, create_tables=True)
    assert SECRET not in everything(caught.value)
    store = FactStore()
    with pytest.raises(AuditError) as refused:
        check_database(store, AuditScope(url=url, batcher="main"))
    store.close()
    assert SECRET not in everything(refused.value)
    assert SECRET not in caplog.text


async def test_a_connection_that_works_keeps_the_password(
    postgresql: TestDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    url = postgresql.engine.url.set(password=SECRET)  # this server asks for none
    sink = SqlSink(url)
    await sink.open()
    postgresql.execute("DROP TABLE batching_ledger")
    other = SqlSink(url, create_ledger=False)
    with pytest.raises(BatchingError) as caught:
        await other.open()
    await sink.close()
    await other.close()
    assert SECRET not in everything(caught.value)
    assert SECRET not in caplog.text


@pytest.mark.parametrize("url", URLS)
def test_settings_say_the_sink_without_its_secrets(url: str) -> None:
    settings = load({"sink": url})
    assert SECRET not in settings.describe_sink()
    assert SECRET not in repr(settings) + str(settings) + str(settings.model_dump()) + settings.model_dump_json()


@pytest.mark.parametrize("setting", ["name", "shards", "linger", "max_batch_bytes", "max_pending"])
@pytest.mark.parametrize("url", URLS[:7])
def test_a_url_in_the_place_of_another_setting_is_reported_without_its_secrets(
    setting: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "batching.toml"
    file.write_text(f'{setting} = "{url}"\n', encoding="utf-8")
    monkeypatch.setenv(f"BATCHING_{setting.upper()}", url)
    for flags in ({setting: url}, {}):
        with pytest.raises(SettingsError) as caught:
            load(flags)
        assert SECRET not in everything(caught.value)
    monkeypatch.delenv(f"BATCHING_{setting.upper()}")
    with pytest.raises(SettingsError) as caught:
        load(config=file)
    assert SECRET not in everything(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "sink = {url}",
        'sink = "{url}',
        "sink: {url}",
        "sink = ['{url}']",
        "sinks = '{url}'",
        "[sink]\nurl = '{url}'",
        "sink = 's3cr3t'",
    ],
)
def test_a_file_that_is_wrong_is_reported_without_its_secrets(text: str, tmp_path: Path) -> None:
    file = tmp_path / "batching.toml"
    file.write_text(text.format(url=URLS[0]), encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        load(config=file)
    assert SECRET not in everything(caught.value)


@pytest.mark.parametrize("key", [SECRET, f"{SECRET}\nkey", f"{SECRET}\x01", f"{SECRET}é"])
async def test_an_api_key_is_kept_whatever_is_wrong_with_it(
    key: str, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for address in (client.service_client.config.target_host, f"127.0.0.1:{free_port()}"):
        environment = {"TEMPORAL_CONFIG_FILE": os.devnull, "TEMPORAL_ADDRESS": address, "TEMPORAL_API_KEY": key}
        with pytest.raises(CommandError) as caught:
            # A key brings TLS along, which a development server does not speak.
            await connect(environment=environment)
        assert SECRET not in everything(caught.value)
        environment |= {"TEMPORAL_TLS": "false", "TEMPORAL_NAMESPACE": "nowhere"}
        with pytest.raises(CommandError) as caught:
            await connect(environment=environment)
        assert SECRET not in everything(caught.value)
    assert SECRET not in caplog.text


def test_help_shows_no_setting_of_the_environment() -> None:
    environment = {**os.environ, "BATCHING_SINK": URLS[0], "TEMPORAL_API_KEY": SECRET}
    program = "from temporal_batching.cli import main; main()"
    command = [sys.executable, "-c", program, "worker", "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "--sink" in done.stdout
    assert SECRET not in done.stdout + done.stderr
