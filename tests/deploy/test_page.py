"""The pages on deployment name every file, and show commands, settings and figures that hold."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from temporal_batching.sizing.costs import WORKER_CPU
from tests.deploy.test_compose import FILE as COMPOSE
from tests.deploy.test_compose import SERVICES
from tests.deploy.test_image import instructions
from tests.deploy.test_systemd import UNIT
from tests.support.deployment import DEPLOY, PROJECT, ROOT, connect_config, connection_of, documents, settings_of

DOCS = ROOT / "docs"
PAGE = (DOCS / "how-to" / "deploy.md").read_text(encoding="utf-8")
CLOUD = (DOCS / "how-to" / "temporal-cloud.md").read_text(encoding="utf-8")


def shell(text: str) -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


COMMANDS = [*shell(PAGE), "kubectl rollout restart deployment/temporal-batching"]
EXPORTS = [line for line in shell(CLOUD) if line.startswith("export ")]
NAMES = {(one["kind"], one["metadata"]["name"]) for one in documents(DEPLOY / "kubernetes" / "deployment.yaml")}


def test_the_page_names_every_file() -> None:
    def names(path: Path) -> list[str]:
        roots = (ROOT, DEPLOY / "kubernetes")
        return [f"`{path.relative_to(root)}`" for root in roots if path.is_relative_to(root)]

    files = [path for path in DEPLOY.rglob("*") if path.is_file()]
    assert [path for path in files if not any(name in PAGE for name in names(path))] == []


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.stem)
def test_a_file_that_a_page_names_is_there(page: Path) -> None:
    named = re.findall(r"`(deploy/[\w./@-]+)`", page.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_names_what_there_is(command: str) -> None:
    words = shlex.split(command)
    program, rest = words[0], words[1:]
    if words[:2] == ["docker", "compose"]:
        assert (rest[1], ROOT / rest[2]) == ("-f", COMPOSE)
        action, *others = rest[3:]
        if action in ("run", "exec"):
            service, *inner = [word for word in others if not word.startswith("--")]
            assert service in SERVICES
            if inner:
                assert inner[0] in PROJECT["project"]["scripts"]
                settings_of(inner[1:], {})
        else:
            assert action in ("up", "down")
            assert set(others) <= {"--build", "--detach", "--wait", "--volumes"}
    elif program in ("docker", "podman") and rest[0] == "build":
        assert ROOT / rest[rest.index("-f") + 1] == DEPLOY / "Dockerfile"
        assert rest[-1] == "."
        arguments = [text.partition("=")[0] for text in instructions("ARG")]
        given = [rest[at + 1].partition("=")[0] for at, word in enumerate(rest) if word == "--build-arg"]
        assert set(given) <= set(arguments)
    elif program == "docker":
        assert rest == ["run", "--rm", "temporal-batching", "--version"]
    elif program == "kubectl":
        if rest[0] == "apply":
            assert (ROOT / rest[2] / "kustomization.yaml").is_file()
        elif rest[:2] == ["create", "secret"]:
            assert rest[2:4] == ["generic", "temporal-batching"]
            assert rest[4].startswith("--from-literal=sink=")
        else:
            target = next(word for word in rest if "/" in word)
            assert ("Deployment", target.partition("/")[2]) in NAMES
        if "--" in rest:
            inner = rest[rest.index("--") + 1 :]
            assert inner[0] in PROJECT["project"]["scripts"]
            settings_of([word for word in inner[1:] if not word.startswith(("--config", "/etc"))], {})
    elif program == "install":
        source, target = rest[-2:]
        assert (ROOT / source).is_file()
        assert target in UNIT.read_text(encoding="utf-8") or target == f"/etc/systemd/system/{UNIT.name}"
    elif program == "systemctl":
        assert {f"{name.partition('@')[0]}@.service" for name in rest[2:]} == {UNIT.name}
    elif program.endswith("/pip"):
        extras = re.findall(r"\[(.*)\]", rest[-1])[0].split(",")
        assert set(extras) <= set(PROJECT["project"]["optional-dependencies"])
        assert f"{program.removesuffix('pip')}temporal-batching" in UNIT.read_text(encoding="utf-8")
    elif program == "python3":
        assert f"ExecStart={rest[-1]}/bin/" in UNIT.read_text(encoding="utf-8")
    else:
        assert (ROOT / program).stat().st_mode & 0o100


def test_the_image_of_ones_own_is_as_the_dockerfile_says() -> None:
    (own,) = re.findall(r"^```dockerfile\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert instructions("WORKDIR")[-1] == "/srv"
    assert "COPY codec.py /srv/" in own
    (name, value) = re.findall(r"^ENV (\w+)=(\S+)$", own, re.MULTILINE)[0]
    assert settings_of(["worker"], {name: value}).data_converter == value


def test_the_figures_of_the_page_are_those_of_the_code() -> None:
    assert f"books {SERVICES['payments']['command'][2]} payments" in PAGE
    assert f"({WORKER_CPU['batcher'] * 1000:g} ms of CPU for a write, measured)" in PAGE


def test_the_settings_for_temporal_cloud_are_understood_by_the_sdk(tmp_path: Path) -> None:
    given = dict(word.split("=", 1) for line in EXPORTS for word in shlex.split(line)[1:])
    assert set(connection_of({name: given[name] for name in given if name != "TEMPORAL_CONFIG_FILE"})) == {
        "target_host",
        "namespace",
        "api_key",
        "tls",
    }
    (block,) = re.findall(r'^```toml title="temporal.toml"\n(.*?)^```', CLOUD, re.MULTILINE | re.DOTALL)
    assert given["TEMPORAL_CONFIG_FILE"] == "temporal.toml"
    for name in ("client.pem", "client.key"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    file = tmp_path / "temporal.toml"
    file.write_text(block.replace("/etc/temporal-batching/", f"{tmp_path}/"), encoding="utf-8")
    config = connect_config({"TEMPORAL_CONFIG_FILE": str(file), "TEMPORAL_PROFILE": "cloud"})
    assert (config["tls"].client_cert, config["tls"].client_private_key) == (b"client.pem", b"client.key")


def test_every_setting_of_the_table_has_an_effect(tmp_path: Path) -> None:
    rows = [line for line in CLOUD.splitlines() if line.startswith("| ") and "`TEMPORAL_" in line]
    variables = {name for row in rows for name in re.findall(r"`(TEMPORAL_\w+)`", row)}
    (tmp_path / "pem").write_text("pem", encoding="utf-8")
    file = tmp_path / "temporal.toml"
    file.write_text('[profile.default]\naddress = "a:1"\n[profile.other]\naddress = "b:1"\n', encoding="utf-8")
    values = {name: str(tmp_path / "pem") if name.endswith("_PATH") else "other" for name in variables}
    values["TEMPORAL_CONFIG_FILE"] = str(file)
    address = values.pop("TEMPORAL_ADDRESS")  # it wins over the profile's
    connection_of(values)
    connection_of({"TEMPORAL_ADDRESS": address})
    assert len(variables) == 9
