"""Settings of a batcher, from flags, environment, a TOML file and defaults: the first that names a setting wins.

`BatcherSettings` is the list of settings; `load` reads them and turns a mistake into one sentence that names
the setting as its writer wrote it (``--linger``, ``BATCHING_LINGER``, ``linger in batching.toml``), the value, and
what is allowed. Where Temporal is, and how to log in there, is not set here: `temporalio.envconfig` reads
``TEMPORAL_ADDRESS``, profiles, TLS and API keys.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from temporalio.common import WorkerDeploymentVersion
from temporalio.runtime import Runtime
from temporalio.worker import WorkerDeploymentConfig

from temporal_batching.contract import DEFAULT_BATCHER
from temporal_batching.errors import BatchingError, InvalidPolicy
from temporal_batching.health.responder import ADDRESS, parse_address
from temporal_batching.metrics.runtime import batching_runtime
from temporal_batching.metrics.shards import SHORTEST_INTERVAL, STATS_INTERVAL
from temporal_batching.policy import MAX_MESSAGE_RETURNED, BatchPolicy
from temporal_batching.redaction import redact_url
from temporal_batching.routing import MAX_SHARDS, check_name, check_shards, default_task_queue
from temporal_batching.sinks.dead_letters import DEFAULT_DEAD_LETTERS
from temporal_batching.sinks.ledger import DEFAULT_LEDGER
from temporal_batching.table_settings import parse_tables, tables_as_json

ENV_PREFIX = "BATCHING_"
CONFIG_VARIABLE = "BATCHING_CONFIG"
CONSOLE = "console"
NONE = "none"
"""The name of a table that is not wanted."""

_SWITCH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_BYTES = {"": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": 1024, "mib": 1024**2, "gib": 1024**3}
_SIZE = re.compile(r"(\d+)\s*(|[kmg]b|[kmg]ib)", re.IGNORECASE)
_LOGIN = re.compile(r"(?<=://).*(?=@)|(?<=\?).*", re.DOTALL)
_URL = re.compile(r"[a-z][a-z0-9+_.-]*:(?://.*)?", re.DOTALL)


class SettingsError(BatchingError, ValueError):
    """A setting that will not do. The message names the setting as it was written, the value, and what is allowed."""


def parse_duration(value: Any) -> timedelta:
    """Reads ``20``, ``20s``, ``200ms``, ``2m`` or ``1m30s``; a bare number is seconds."""
    wanted = "a duration such as 20s, 200ms or 1m30s (a bare number is seconds)"
    if isinstance(value, timedelta):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(wanted)
    text = str(value).strip().lower().replace(" ", "")
    try:
        if _DURATION.fullmatch(text):
            return timedelta(seconds=sum(float(n) * _SECONDS[unit] for n, unit in _DURATION_PART.findall(text)))
        return timedelta(seconds=float(text))
    except (ValueError, OverflowError):
        raise ValueError(wanted) from None


def format_duration(value: timedelta) -> str:
    """The shortest form that `parse_duration` reads back: ``200ms``, ``20s``, ``2m``."""
    seconds = value.total_seconds()
    if 0 < seconds < 1:
        return f"{seconds * 1000:g}ms"
    if seconds >= 60 and seconds % 60 == 0:
        return f"{seconds / 60:g}m"
    return f"{seconds:g}s"


def parse_size(value: Any) -> int:
    """Reads a number of bytes, ``512KiB`` or ``1MB``."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError("a whole number of bytes, or a size such as 512KiB or 1MB")
    return int(match[1]) * _BYTES[match[2].lower()]


def format_size(value: int) -> str:
    """The shortest form that `parse_size` reads back: ``1MiB``, ``512KiB``, ``1500000``."""
    for unit, size in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if value and value % size == 0:
            return f"{value // size}{unit}"
    return str(value)


def parse_whole(value: Any) -> int:
    """Reads a whole number as people write it: ``10000``, ``10_000`` or ``10,000``."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d[\d_,]*", value.strip()):
        return int(value.strip().replace(",", "").replace("_", ""))
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError("a whole number")


def parse_sink(value: Any) -> str:
    """Accepts ``console`` or something that looks like a database URL; the driver judges the rest."""
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if isinstance(text, str) and (text == CONSOLE or _URL.fullmatch(text)):
        return text
    raise ValueError(
        "'console', or a database URL such as sqlite:///payments.db or postgresql+psycopg://user@host/database"
    )


def parse_shards(value: Any) -> int:
    try:
        return check_shards(parse_whole(value))
    except ValueError:
        raise ValueError(f"a whole number from 1 to {MAX_SHARDS}") from None


def parse_listen_address(value: Any) -> str:
    """Accepts ``HOST:PORT``, or nothing at all."""
    if not isinstance(value, str):
        raise ValueError(ADDRESS)
    if value:
        parse_address(value)
    return value


def parse_interval(value: Any) -> timedelta:
    interval = parse_duration(value)
    if interval and interval < SHORTEST_INTERVAL:
        raise ValueError("at least 1s, or 0 to ask for nothing")
    return interval


def parse_filled(value: Any) -> str:
    if isinstance(value, str) and value.strip():
        return value
    raise ValueError("a name of at least one character")


def parse_build_id(value: Any) -> str:
    """Accepts what Temporal accepts as a build id, or nothing at all."""
    if isinstance(value, str) and len(value) <= MAX_VERSION_NAME and not value.startswith("__"):
        return value
    raise ValueError(f"at most {MAX_VERSION_NAME} characters, not beginning with '__'")


def parse_deployment_name(value: Any) -> str:
    """Accepts what Temporal accepts as the name of a worker deployment, or nothing at all."""
    if isinstance(value, str) and not set(value) & set(".:"):
        return parse_build_id(value)
    raise ValueError(f"at most {MAX_VERSION_NAME} characters, none of them '.' or ':'")


def parse_queue(value: Any) -> str:
    """Accepts a task queue's name, or nothing at all."""
    return value if value == "" else parse_filled(value)


def parse_serve(value: Any) -> str:
    if value in SERVE:
        return str(value)
    raise ValueError(f"one of {', '.join(SERVE)}")


def parse_switch(value: Any) -> bool:
    """Reads ``true`` or ``false``, also as ``yes``, ``no``, ``on``, ``off``, ``1`` and ``0``."""
    found = value if isinstance(value, bool) else _SWITCH.get(str(value).strip().lower())
    if found is None:
        raise ValueError("true or false")
    return found


def parse_optional_table(value: Any) -> str | None:
    """Reads a table's name; ``none``, in a file also false, is no table."""
    if value is None or value is False or value == NONE:
        return None
    if isinstance(value, str) and value.strip():
        return value
    raise ValueError(f"a table's name, or {NONE}")


def parse_time_limit(value: Any) -> timedelta:
    """Reads a duration of more than zero."""
    limit = parse_duration(value)
    if limit <= timedelta(0):
        raise ValueError("more than zero")
    return limit


def parse_connections(value: Any) -> int:
    number = parse_whole(value)
    if number < 1:
        raise ValueError("a whole number of at least 1")
    return number


def parse_returned_bytes(value: Any) -> int:
    size = parse_size(value)
    if not 1 <= size <= MAX_MESSAGE_RETURNED:
        raise ValueError(f"from 1 to {MAX_MESSAGE_RETURNED:,} bytes")
    return size


def parse_log_level(value: Any) -> str:
    return _one_of(LOG_LEVELS, value)


def parse_log_format(value: Any) -> str:
    return _one_of(LOG_FORMATS, value)


def _one_of(allowed: tuple[str, ...], value: Any) -> str:
    text = value.strip().lower() if isinstance(value, str) else None
    if text not in allowed:
        raise ValueError(f"{', '.join(allowed[:-1])} or {allowed[-1]}")
    return text


Duration = Annotated[timedelta, BeforeValidator(parse_duration)]
Size = Annotated[int, BeforeValidator(parse_size)]
Whole = Annotated[int, BeforeValidator(parse_whole)]
SinkUrl = Annotated[SecretStr, BeforeValidator(parse_sink)]
TimeLimit = Annotated[timedelta, BeforeValidator(parse_time_limit)]
Switch = Annotated[bool, BeforeValidator(parse_switch)]
ListenAddress = Annotated[str, BeforeValidator(parse_listen_address)]

MAX_VERSION_NAME = 400
"""Characters of a deployment's name, and of a build id: Temporal puts both into the id of a workflow of its own."""

_DEFAULTS = BatchPolicy()
POLICY_FIELDS = tuple(f.name for f in fields(BatchPolicy))
SINK_FIELDS = (
    "tables", "ledger_table", "create_ledger", "dead_letters", "statement_timeout", "lock_timeout", "connect_timeout",
    "max_connections", "max_returned_bytes", "wal",
)  # fmt: skip
"""The settings that are options of `SqlSink`, by its names of them."""
FLUSH_FIELDS = ("flush_task_queue", "serve")
"""Where flushes go, and which of a batcher's work a worker does."""
SERVE = ("all", "shards", "flushes")
OBSERVED_FIELDS = ("health", "metrics", "metrics_interval")
"""How a worker is observed."""
VERSION_FIELDS = ("deployment_name", "build_id")
"""Which worker deployment version a worker is of."""
_GIVEN_BY_PLATFORM = {"deployment_name": "TEMPORAL_DEPLOYMENT_NAME", "build_id": "TEMPORAL_WORKER_BUILD_ID"}
"""Variables in which Temporal's Worker Controller for Kubernetes names the version to a worker."""
LOG_FIELDS = ("log_level", "log_format")
"""What a process that serves writes to its log, and how."""
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")


class BatcherSettings(BaseSettings):
    """All settings of a batcher; each is also a flag, a variable ``BATCHING_...`` and a key of the TOML file."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, extra="forbid", env_ignore_empty=True, hide_input_in_errors=True
    )

    name: Annotated[str, BeforeValidator(check_name)] = Field(DEFAULT_BATCHER, description="The batcher's name")
    task_queue: Annotated[str, BeforeValidator(parse_filled)] = Field(
        default_factory=lambda known: default_task_queue(known["name"]), description="The batcher's task queue"
    )
    shards: Annotated[int, BeforeValidator(parse_shards)] = Field(
        1, description="Batcher workflows; every caller must use the same number"
    )
    data_converter: str = Field(
        "", description="The data converter of the batcher and its callers, where a codec encodes what travels"
    )
    flush_task_queue: Annotated[str, BeforeValidator(parse_queue)] = Field(
        "", description="A task queue of their own for the flushes"
    )
    serve: Annotated[str, BeforeValidator(parse_serve)] = Field(
        "all", description="What the worker does: 'all', 'shards' without flushes, or only 'flushes'"
    )
    sink: SinkUrl = Field(SecretStr(CONSOLE), description="Where records go: 'console' or a database URL")

    tables: Annotated[Mapping[str, Any] | None, NoDecode, BeforeValidator(parse_tables)] = Field(
        None, description="The tables that requests may write to, with their rules"
    )
    ledger_table: Annotated[str, BeforeValidator(parse_filled)] = Field(
        DEFAULT_LEDGER, description="The table that keeps the request ids"
    )
    create_ledger: Switch = Field(True, description="Create a missing ledger")
    dead_letters: Annotated[str | None, BeforeValidator(parse_optional_table)] = Field(
        DEFAULT_DEAD_LETTERS, description="The table of rejected requests without a reply address, or 'none'"
    )
    statement_timeout: TimeLimit = Field(
        timedelta(seconds=25), description="All statements of a flush together; less than the flush timeout"
    )
    lock_timeout: TimeLimit = Field(timedelta(seconds=10), description="The longest wait for a lock in the database")
    connect_timeout: TimeLimit = Field(timedelta(seconds=10), description="The longest wait for a connection to it")
    max_connections: Annotated[int, BeforeValidator(parse_connections)] = Field(
        4, description="Connections that a worker may use concurrently"
    )
    max_returned_bytes: Annotated[int, BeforeValidator(parse_returned_bytes)] = Field(
        16_384, description="Bytes that one request may return"
    )
    wal: Switch = Field(True, description="Switch a SQLite file to write-ahead logging")

    deployment_name: Annotated[str, BeforeValidator(parse_deployment_name)] = Field(
        "", description="The worker deployment that this worker belongs to; with --build-id it is of a version"
    )
    build_id: Annotated[str, BeforeValidator(parse_build_id)] = Field(
        "", description="The worker's version in its deployment; empty: it is of none"
    )

    health: ListenAddress = Field("", description="Answer /healthz and /readyz here")
    metrics: ListenAddress = Field("", description="Serve metrics for Prometheus here")
    metrics_interval: Annotated[timedelta, BeforeValidator(parse_interval)] = Field(
        STATS_INTERVAL, description="How often a worker that serves metrics asks each shard; 0 never asks"
    )

    log_level: Annotated[str, BeforeValidator(parse_log_level)] = Field(
        "info", description="The least severe lines of the log: debug, info, warning or error"
    )
    log_format: Annotated[str, BeforeValidator(parse_log_format)] = Field(
        "text", description="The log as text, or as a JSON object in each line"
    )

    max_batch_size: Whole = Field(_DEFAULTS.max_batch_size, description="Requests in one batch")
    max_batch_records: Whole = Field(_DEFAULTS.max_batch_records, description="Records in one batch and in one request")
    linger: Duration = Field(_DEFAULTS.linger, description="The longest a request waits for a fuller batch")
    max_batch_bytes: Size = Field(_DEFAULTS.max_batch_bytes, description="Bytes in one batch")
    max_pending: Whole = Field(_DEFAULTS.max_pending, description="Requests that may wait in one shard's buffer")
    max_pending_bytes: Size = Field(_DEFAULTS.max_pending_bytes, description="Bytes that may wait there")
    max_in_flight: Whole = Field(_DEFAULTS.max_in_flight, description="Flushes of one shard at a time")
    confirmation_timeout: Duration = Field(
        _DEFAULTS.confirmation_timeout, description="The deadline of a request that brings none of its own"
    )
    flush_timeout: Duration = Field(_DEFAULTS.flush_timeout, description="The longest one flush may take")
    retry_initial: Duration = Field(_DEFAULTS.retry_initial, description="First pause after the sink was unavailable")
    retry_max: Duration = Field(_DEFAULTS.retry_max, description="Longest pause while the sink is unavailable")
    deadline_margin: Duration = Field(
        _DEFAULTS.deadline_margin, description="How long before a deadline its batch is flushed"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Keeps what the caller passes, then the environment. `load` merges flags and file, to know who said what."""
        return init_settings, env_settings

    def policy(self) -> BatchPolicy:
        return BatchPolicy(**{name: getattr(self, name) for name in POLICY_FIELDS})

    def given_policy(self) -> BatchPolicy | None:
        """The limits, if any of them was set; None leaves them to the shards that have others."""
        return self.policy() if self.model_fields_set & set(POLICY_FIELDS) else None

    def sink_options(self) -> dict[str, Any]:
        """The options of `SqlSink` beside its URL."""
        return {name: getattr(self, name) for name in SINK_FIELDS}

    def runtime(self) -> Runtime | None:
        """What publishes the metrics where they are to be served; None leaves it to the SDK.

        Raises:
            AddressUnusable: Nothing can listen there.
        """
        return batching_runtime(self.metrics) if self.metrics else None

    def flushes(self) -> dict[str, Any]:
        """Where flushes go, as arguments of `BatcherPlugin`."""
        return {"flush_task_queue": self.flush_task_queue or None}

    def observed(self) -> dict[str, Any]:
        """How a worker is observed, as arguments of `BatcherPlugin`."""
        return {"health": self.health or None, "metrics_interval": self.metrics_interval or None}

    def deployment_config(self) -> WorkerDeploymentConfig | None:
        """The worker's version, as the option of `Worker`; None for a worker without one."""
        if not self.build_id:
            return None
        version = WorkerDeploymentVersion(self.deployment_name, self.build_id)
        return WorkerDeploymentConfig(version, use_worker_versioning=True)

    def sink_url(self) -> str:
        """The URL with its secrets: hand it to the driver, print `describe_sink` instead."""
        return self.sink.get_secret_value()

    def describe_sink(self) -> str:
        url = self.sink_url()
        return url if url == CONSOLE else redact_url(url)

    def to_environment(self) -> dict[str, str]:
        """The settings as variables, so that a child process reads exactly these."""
        return {variable(name): _as_text(name, getattr(self, name)) for name in type(self).model_fields}


def load(
    flags: Mapping[str, Any] | None = None,
    *,
    config: str | Path | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> BatcherSettings:
    """Reads the settings: flags win over the environment, that over the file, that over the defaults.

    Args:
        flags: Setting to value, as given on the command line; None values were not given.
        config: A TOML file with settings; ``BATCHING_CONFIG`` otherwise.
        defaults: Setting to value, where a command has a better default than the library.

    Raises:
        SettingsError: One sentence for people, without secrets.
    """
    given = {name: value for name, value in (flags or {}).items() if value is not None and value != []}
    environment = EnvSettingsSource(BatcherSettings)()
    path = config or os.environ.get(CONFIG_VARIABLE)
    file = _read_file(Path(path)) if path else {}
    _check_names(file, path)
    said_by = (
        {name: f"{name} in {path}" for name in file}
        | {name: variable(name) for name in environment}
        | {name: flag(name) for name in given}
    )
    platform = {name: os.environ.get(there, "") for name, there in _GIVEN_BY_PLATFORM.items()}
    if not all(platform.values()):
        platform = {}
    merged = {**(defaults or {}), **platform, **file, **environment, **given}
    try:
        settings = BatcherSettings(**merged)
    except ValidationError as err:
        problem = err.errors(include_input=False, include_url=False)[0]
        name = str(problem["loc"][0]) if problem["loc"] else ""
        cause = str(problem.get("ctx", {}).get("error", problem["msg"]))
        if name in POLICY_FIELDS:
            cause = f"{cause}, {_range_of(name)}"
        raise SettingsError(_sentence(name, merged.get(name), said_by.get(name, name), cause)) from None
    if bool(settings.deployment_name) != bool(settings.build_id):
        lacks, has = VERSION_FIELDS if settings.build_id else reversed(VERSION_FIELDS)
        raise SettingsError(f"{said_by.get(has, has)}: {flag(lacks)} belongs to it, or {variable(lacks)}")
    if settings.serve != "all" and not settings.flush_task_queue:
        missing = f"{flag('flush_task_queue')} is needed too, the task queue of the flushes"
        raise SettingsError(f"{said_by.get('serve', 'serve')} {settings.serve!r}: {missing}")
    try:
        settings.policy()
    except InvalidPolicy as err:
        name = _culprit(settings, merged)
        raise SettingsError(_sentence(name, merged.get(name), said_by.get(name, name), str(err))) from None
    return settings


def flag(name: str) -> str:
    """The flag of a setting, e.g. ``--max-batch-size``."""
    # It names one table, and may be repeated.
    return "--table" if name == "tables" else "--" + name.replace("_", "-")


def variable(name: str) -> str:
    """The environment variable of a setting, e.g. ``BATCHING_MAX_BATCH_SIZE``."""
    return f"{ENV_PREFIX}{name.upper()}"


def _as_text(name: str, value: Any) -> str:
    if value is None:
        return NONE if name == "dead_letters" else ""  # an empty variable counts as not set
    if name == "tables":
        return tables_as_json(value)
    if isinstance(value, timedelta):
        return f"{value.total_seconds()!r}s"
    return str(value.get_secret_value() if isinstance(value, SecretStr) else value)


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise SettingsError(f"cannot read the settings in {path}: {err.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise SettingsError(f"{path} is not a TOML file: {err}") from None


def _check_names(file: Mapping[str, Any], path: str | Path | None) -> None:
    known = BatcherSettings.model_fields
    for name in file:
        if name not in known:
            hint = _hint(name, known) or f": the settings are {', '.join(sorted(known))}"
            raise SettingsError(f"{name} in {path} is not a setting{hint}")
    # Only near misses: Kubernetes puts BATCHING_PORT and the like into pods, for a service of that name.
    variables = [variable(name) for name in known] + [CONFIG_VARIABLE]
    for found in os.environ:
        if found.startswith(ENV_PREFIX) and found not in variables and (hint := _hint(found, variables)):
            raise SettingsError(f"{found} is not a setting{hint}")


def _hint(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.85)
    return f" (did you mean {close[0]}?)" if close else ""


def _sentence(name: str, value: Any, said_by: str, cause: str) -> str:
    if name in ("sink", "tables"):  # the one is a secret, and the other's cause says which part of it
        return f"{said_by}: {cause}"
    if isinstance(value, timedelta):
        value = format_duration(value)
    if cause.startswith(f"{name} "):
        cause = cause.partition(": ")[2]
    # A database's URL in the place of something else is a slip, and its password no less a secret.
    shown = _LOGIN.sub("***", str(value))
    return f"{said_by} {shown!r}: {cause.replace(str(value), shown)}"


def _range_of(name: str) -> str:
    """The range that `BatchPolicy` itself states, so that it is written in one place."""
    duration = isinstance(getattr(_DEFAULTS, name), timedelta)
    impossible: Any = timedelta(days=-1) if duration else -1
    try:
        BatchPolicy(**{name: impossible})
    except InvalidPolicy as err:
        return str(err).partition(": ")[2].removeprefix("a whole number ")
    return ""


def _culprit(settings: BatcherSettings, given: Mapping[str, Any]) -> str:
    """The setting without which the others are valid; where two are invalid, the first that is invalid by itself."""
    values = {name: getattr(settings, name) for name in POLICY_FIELDS if name in given}
    for name in values:
        if _will_do({other: value for other, value in values.items() if other != name}):
            return name
    return next((name for name, value in values.items() if not _will_do({name: value})), "")


def _will_do(values: dict[str, Any]) -> bool:
    try:
        BatchPolicy(**values)
    except InvalidPolicy:
        return False
    return True
