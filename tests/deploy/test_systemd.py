"""The unit is one that systemd understands, and its values agree with the code."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from temporal_batching.policy import BatchPolicy
from tests.support.deployment import DEPLOY, PROJECT, connect_config, port_of, seconds, settings_of

UNIT = DEPLOY / "systemd" / "temporal-batching@.service"
TEXT = UNIT.read_text(encoding="utf-8")
ANALYZE = shutil.which("systemd-analyze")

needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd is not installed: apt-get install systemd")


def values(key: str, text: str = TEXT) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)


def variables(instance: str) -> dict[str, str]:
    words = " ".join(values("Environment")).replace("%i", instance).split()
    return dict(word.partition("=")[::2] for word in words)


def analyzed(tmp_path: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """What ``systemd-analyze`` says of the unit, with a program that is installed here."""
    assert ANALYZE is not None
    (program,) = re.findall(r"^ExecStart=(\S+)", TEXT, re.MULTILINE)
    copy = tmp_path / UNIT.name.replace("@", "@1")
    text = TEXT.replace(program, sys.executable)
    copy.write_text(text, encoding="utf-8")
    return subprocess.run([ANALYZE, *command, str(copy)], capture_output=True, text=True, timeout=60)


@pytest.mark.systemd
@needs_systemd
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    done = analyzed(tmp_path, "verify", "--man=no")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


@pytest.mark.systemd
@needs_systemd
def test_the_unit_has_few_rights(tmp_path: Path) -> None:
    done = analyzed(tmp_path, "security", "--no-pager", "--offline=true", "--threshold=20")
    assert done.returncode == 0, done.stdout


def test_a_worker_has_time_to_finish_its_flushes() -> None:
    (stop,) = values("TimeoutStopSec")
    assert seconds(stop) >= BatchPolicy().flush_timeout.total_seconds() + 10
    assert values("KillMode") == ["mixed"]
    assert values("KillSignal") == []  # SIGTERM is the default


def test_it_starts_the_command_of_the_package() -> None:
    (command,) = values("ExecStart")
    program, *arguments = command.split()
    (script,) = PROJECT["project"]["scripts"]
    assert Path(program).name == script
    assert arguments[:2] == ["worker", "--config"]
    assert settings_of(["worker"], variables("1")).health


def test_each_instance_has_ports_of_its_own_on_this_machine() -> None:
    found = [settings_of(["worker"], variables(str(number))) for number in range(1, 10)]
    addresses = [address for one in found for address in (one.health, one.metrics)]
    assert len({port_of(address) for address in addresses}) == 18
    assert all(address.startswith("127.0.0.1:") for address in addresses)


def test_the_example_of_its_environment_is_understood() -> None:
    text = (DEPLOY / "systemd" / "environment.example").read_text(encoding="utf-8")
    given = dict(re.findall(r"^#?([A-Z]+_[A-Z_]+)=(.*)$", text, re.MULTILINE))
    assert settings_of(["worker"], given | {"TEMPORAL_API_KEY": "key"}).sink_url() == given["BATCHING_SINK"]
    names = {name: value or "key" for name, value in given.items() if name.startswith("TEMPORAL_")}
    assert set(connect_config(names)) == {"target_host", "namespace", "api_key", "tls"}
    assert values("EnvironmentFile") == ["/etc/temporal-batching/environment"]
