"""Settings: who wins, what is said about a value that will not do, and that secrets stay secret."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.common import WorkerDeploymentVersion

from temporal_batching import BatchPolicy
from temporal_batching.redaction import redact_url, without_secrets
from temporal_batching.settings import (
    BatcherSettings,
    SettingsError,
    format_duration,
    load,
    parse_duration,
    parse_size,
)

URL = "postgresql+psycopg://ann:s3cr%40t-word@db.example:5432/ledger?sslpassword=k3ypass&application_name=x"


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in BatcherSettings.model_fields:
        monkeypatch.delenv(f"BATCHING_{name.upper()}", raising=False)
    for name in ("BATCHING_CONFIG", "TEMPORAL_DEPLOYMENT_NAME", "TEMPORAL_WORKER_BUILD_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "batching.toml"
    path.write_text('linger = "3s"\nmax_batch_size = 30\nname = "from-file"\nshards = 3\n')
    return path


def test_defaults_are_the_librarys_own() -> None:
    assert load().policy() == BatchPolicy()
    assert load().sink_url() == "console"


def test_flags_win_over_environment_over_file_over_defaults(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHING_LINGER", "2s")
    monkeypatch.setenv("BATCHING_MAX_BATCH_SIZE", "20")
    settings = load({"linger": "1s", "name": None}, config=file, defaults={"shards": "9", "max_pending": "900"})
    assert settings.linger == timedelta(seconds=1)
    assert settings.max_batch_size == 20
    assert settings.name == "from-file"
    assert settings.shards == 3
    assert settings.max_pending == 900
    assert settings.max_in_flight == BatchPolicy().max_in_flight


def test_the_file_is_found_through_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHING_CONFIG", str(file))
    assert load().linger == timedelta(seconds=3)


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHING_LINGER", "")
    assert load().linger == BatchPolicy().linger


def test_a_child_process_reads_what_its_parent_had(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load({"linger": "1500ms", "sink": URL, "shards": "4", "max_batch_bytes": "64KiB"})
    for name, value in settings.to_environment().items():
        monkeypatch.setenv(name, value)
    assert load() == settings


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5", 5), ("5s", 5), ("200ms", 0.2), ("2m", 120), ("1m30s", 90), ("1.5h", 5400), (" 2 S ", 2), (7, 7), ("0", 0)],
)
def test_a_duration_is_read_as_people_write_it(text: str | int, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@given(st.integers(min_value=0, max_value=86_400_000))
def test_a_duration_is_printed_so_that_it_reads_back(milliseconds: int) -> None:
    value = timedelta(milliseconds=milliseconds)
    assert abs(parse_duration(format_duration(value)) - value) <= value * 1e-4


@pytest.mark.parametrize(
    ("text", "size"), [("1000", 1000), ("512KiB", 524_288), ("1MB", 1_000_000), ("2GiB", 2**31), (5, 5)]
)
def test_a_size_is_read_as_people_write_it(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("linger", "2h", "from 0 to 3600 seconds"),
        ("linger", "soon", "a duration such as 20s, 200ms or 1m30s"),
        ("linger", "nan", "a duration such as"),
        ("max_batch_size", "0", "a whole number from 1 to 10,000"),
        ("max_batch_size", "many", "from 1 to 10,000"),
        ("max_batch_bytes", "1TB", "a size such as 512KiB or 1MB"),
        ("shards", "x", "a whole number from 1 to 1024"),
        ("shards", "0", "a whole number from 1 to 1024"),
        ("name", "My Batcher", "lower-case letters"),
        ("task_queue", " ", "at least one character"),
        ("ledger_table", " ", "at least one character"),
        ("dead_letters", " ", "a table's name, or none"),
        ("wal", "maybe", "true or false"),
        ("create_ledger", "2", "true or false"),
        ("lock_timeout", "0", "more than zero"),
        ("statement_timeout", "soon", "a duration such as"),
        ("max_connections", "0", "a whole number of at least 1"),
        ("max_returned_bytes", "2MiB", "from 1 to 1,048,576 bytes"),
    ],
)
def test_a_bad_value_is_told_by_setting_value_and_what_is_allowed(
    name: str, value: str, allowed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The setting is named as its writer wrote it: flag, variable or key of the file."""
    with pytest.raises(SettingsError) as by_flag:
        load({name: value})
    with monkeypatch.context() as patch:
        patch.setenv(f"BATCHING_{name.upper()}", value)
        with pytest.raises(SettingsError) as by_variable:
            load()
    path = tmp_path / "b.toml"
    path.write_text(f'{name} = "{value}"\n')
    with pytest.raises(SettingsError) as by_file:
        load(config=path)
    writers = ("--" + name.replace("_", "-"), f"BATCHING_{name.upper()}", f"{name} in {path}")
    for error, writer in zip((by_flag, by_variable, by_file), writers, strict=True):
        message = str(error.value)
        assert message.startswith(f"{writer} {value!r}: ")
        assert allowed in message
        assert "\n" not in message


def test_limits_that_contradict_each_other_are_told_by_one_that_was_set(tmp_path: Path) -> None:
    path = tmp_path / "b.toml"
    path.write_text("retry_initial = 60\n")
    with pytest.raises(SettingsError, match=r"^retry_initial in .* '60': retry_max 30 s: from 60 to 600 seconds$"):
        load(config=path)
    assert load({"retry_max": "2m"}, config=path).retry_max == timedelta(minutes=2)


def test_an_unknown_key_of_the_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "b.toml"
    path.write_text("lingr = 3\n")
    with pytest.raises(SettingsError, match=r"lingr in .* is not a setting \(did you mean linger\?\)"):
        load(config=path)
    path.write_text("[batcher]\nlinger = 3\n")
    with pytest.raises(SettingsError, match=r"batcher in .* is not a setting: the settings are .*linger"):
        load(config=path)


def test_a_misspelt_variable_is_an_error_and_a_strange_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service called "batching" makes Kubernetes set BATCHING_PORT, which is none of ours."""
    monkeypatch.setenv("BATCHING_PORT", "tcp://10.0.0.1:80")
    load()
    monkeypatch.setenv("BATCHING_MAX_BATCHSIZE", "5")
    with pytest.raises(SettingsError, match="did you mean BATCHING_MAX_BATCH_SIZE"):
        load()


@pytest.mark.parametrize("content", ["linger 3", "\ufffe"])
def test_a_file_that_is_no_toml_is_told_by_its_name(content: str, tmp_path: Path) -> None:
    path = tmp_path / "b.toml"
    path.write_text(content, encoding="utf-16")
    with pytest.raises(SettingsError, match=r"b\.toml is not a TOML file"):
        load(config=path)
    with pytest.raises(SettingsError, match=r"cannot read the settings in .*missing\.toml: No such file"):
        load(config=tmp_path / "missing.toml")


def test_no_form_of_the_settings_shows_the_databases_password() -> None:
    settings = load({"sink": URL})
    shown = f"{settings!r} {settings} {settings.describe_sink()} {settings.model_dump_json()}"
    assert "s3cr" not in shown
    assert "k3ypass" not in shown
    assert "db.example:5432/ledger" in settings.describe_sink()
    assert settings.sink_url() == URL


def test_an_error_about_the_sink_does_not_repeat_it(tmp_path: Path) -> None:
    path = tmp_path / "b.toml"
    path.write_text('sink = "no url, but s3cret"\n')
    for flags in ({"sink": "s3cret"}, {}):
        with pytest.raises(SettingsError, match="a database URL such as") as error:
            load(flags, config=path)
        assert "s3cret" not in str(error.value)


_passwords = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=6, max_size=12)


@given(_passwords)
def test_no_password_survives_redaction_however_badly_it_is_escaped(password: str) -> None:
    url = f"postgresql://ann:pre{password}post@localhost/db?password={password}"
    if "?" not in password:
        assert redact_url(url) == "postgresql://localhost/db"
    assert f"pre{password}post" not in without_secrets(f"cannot connect with pre{password}post to {url}", url)


def test_the_example_file_states_the_defaults() -> None:
    example = Path(__file__).resolve().parents[2] / "examples" / "batching.toml"
    assert load(config=example) == load()


def test_a_worker_has_no_version_unless_it_is_given_one() -> None:
    assert load().deployment_config() is None
    config = load({"deployment_name": "batcher", "build_id": "2026-11-27.3"}).deployment_config()
    assert config is not None
    assert config.version == WorkerDeploymentVersion("batcher", "2026-11-27.3")
    assert config.use_worker_versioning


def test_the_worker_controllers_variables_give_a_version_where_no_setting_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TEMPORAL_DEPLOYMENT_NAME", "prod/batcher")
    assert load().deployment_config() is None, "half of it belongs to somebody else"
    monkeypatch.setenv("TEMPORAL_WORKER_BUILD_ID", "v7-1a2b")
    assert (load().deployment_name, load().build_id) == ("prod/batcher", "v7-1a2b")
    monkeypatch.setenv("BATCHING_BUILD_ID", "v8")
    assert (load().deployment_name, load().build_id) == ("prod/batcher", "v8")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"build_id": "v1"}, "--build-id: --deployment-name belongs to it, or BATCHING_DEPLOYMENT_NAME"),
        ({"deployment_name": "batcher"}, "--deployment-name: --build-id belongs to it, or BATCHING_BUILD_ID"),
        ({"deployment_name": "a.b", "build_id": "1"}, "--deployment-name 'a.b': at most 400 characters, none of"),
        ({"deployment_name": "a", "build_id": "__1"}, "--build-id '__1': at most 400 characters, not beginning"),
        ({"deployment_name": "a" * 401, "build_id": "1"}, "at most 400 characters"),
    ],
)
def test_half_a_version_and_one_that_temporal_refuses_are_errors(flags: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(flags)
    assert says in str(caught.value)


def test_flushes_have_a_queue_by_flag_variable_and_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert load({}).flushes() == {"flush_task_queue": None}
    assert load({"flush_task_queue": "a"}).flushes() == {"flush_task_queue": "a"}
    file = tmp_path / "batching.toml"
    file.write_text('flush_task_queue = "b"\nserve = "flushes"\n')
    assert (load(config=file).flush_task_queue, load(config=file).serve) == ("b", "flushes")
    monkeypatch.setenv("BATCHING_FLUSH_TASK_QUEUE", "c")
    assert load(config=file).flush_task_queue == "c"


def test_what_a_worker_serves_is_one_of_three_and_needs_the_queue() -> None:
    with pytest.raises(SettingsError, match=r"--serve 'nothing': one of all, shards, flushes"):
        load({"serve": "nothing"})
    for serve in ("shards", "flushes"):
        with pytest.raises(SettingsError, match=rf"--serve '{serve}': --flush-task-queue is needed too"):
            load({"serve": serve})
    with pytest.raises(SettingsError, match="--flush-task-queue ' ': a name of at least one character"):
        load({"flush_task_queue": " "})
