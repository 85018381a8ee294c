"""Reads the files below ``deploy/``, and says what of them the code would understand."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import typer
from ruamel.yaml import YAML
from temporalio.envconfig import ClientConfig

from temporal_batching.cli.app import app
from temporal_batching.settings import CONFIG_VARIABLE, BatcherSettings, load, variable

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
VARIABLES = {CONFIG_VARIABLE, *(variable(name) for name in BatcherSettings.model_fields)}


def documents(path: Path) -> list[Any]:
    """What a file of YAML has."""
    return list(YAML(typ="safe", pure=True).load_all(path))


def document(path: Path) -> Any:
    """What a file of YAML has, where it is one document."""
    (only,) = documents(path)
    return only


def pinned(package: str) -> str:
    """The version of a package that the project is tested with."""
    (found,) = (
        pin.partition("==")[2]
        for pin in PROJECT["tool"]["uv"]["constraint-dependencies"]
        if pin.startswith(f"{package}==")
    )
    return str(found)


def seconds(text: str) -> float:
    """A duration as compose and systemd write it: in seconds."""
    (found,) = re.findall(r"^(\d+)s$", text)
    return float(found)


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """This process's environment with these variables, and no others of ours or of Temporal's."""
    foreign = ("BATCHING_", "TEMPORAL_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    with mock.patch.dict(os.environ, {**kept, **variables}, clear=True):
        yield


def settings_of(arguments: Sequence[str], variables: Mapping[str, str]) -> BatcherSettings:
    """The settings of ``temporal-batching`` with these arguments and variables.

    Fails where the command does not know an argument, or a variable is none of a setting's.
    """
    unknown = {name for name in variables if name.startswith("BATCHING_")} - VARIABLES
    assert unknown == set()
    group: Any = typer.main.get_command(app)
    name, *options = arguments
    given = group.commands[name].make_context(name, list(options)).params
    with environment(variables):
        return load(
            {name: value for name, value in given.items() if name in BatcherSettings.model_fields and value != ()},
            config=given.get("config"),
        )


def connection_of(variables: Mapping[str, str]) -> dict[str, Any]:
    """How Temporal's SDK connects with these variables: each of Temporal's must have an effect."""
    own = {name: value for name, value in variables.items() if name.startswith("TEMPORAL_")}
    for name in own:
        rest = {other: value for other, value in own.items() if other != name}
        assert _effect(rest) != _effect(own), f"{name} has no effect"
    return connect_config(own)


def _effect(variables: Mapping[str, str]) -> object:
    try:
        return connect_config(variables)
    except RuntimeError as err:
        return str(err)


def connect_config(variables: Mapping[str, str]) -> dict[str, Any]:
    """The SDK's connection settings with these variables alone; an unknown key of its file fails."""
    nothing = {"TEMPORAL_CONFIG_FILE": os.devnull}
    config = ClientConfig.load_client_connect_config(
        config_file_strict=True, override_env_vars={**nothing, **variables}
    )
    return dict(config)
