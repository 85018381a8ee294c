"""The manifests are valid, agree with each other, and say what the code understands."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from temporal_batching.health.readiness import LOOK_TIMEOUT
from temporal_batching.settings import BatcherSettings
from tests.deploy.test_image import instructions
from tests.support.deployment import (
    DEPLOY,
    PROJECT,
    connect_config,
    document,
    documents,
    port_of,
    seconds,
    settings_of,
)

HERE = DEPLOY / "kubernetes"
MANIFESTS = sorted(path for path in HERE.rglob("*.yaml") if path.name != "kustomization.yaml")
BASE = document(HERE / "kustomization.yaml")
CUSTOM = {"PodMonitor", "ScaledObject", "TriggerAuthentication"}
"""Kinds that an operator brings."""

DEPLOYMENT = document(HERE / "deployment.yaml")
POD = DEPLOYMENT["spec"]["template"]["spec"]
(WORKER,) = POD["containers"]
FILES = document(HERE / "configmap.yaml")["data"]
LABELS = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
ENVIRONMENT = {one["name"]: one["value"] for one in WORKER["env"] if "value" in one}
PORTS = {port["name"]: port["containerPort"] for port in WORKER["ports"]}


PRUNING = document(HERE / "prune.yaml")["spec"]["jobTemplate"]["spec"]["template"]["spec"]


def resources(kind: str) -> list[Any]:
    return [one for path in MANIFESTS for one in documents(path) if one["kind"] == kind]


def resource(kind: str) -> Any:
    (only,) = resources(kind)
    return only


def settings(tmp_path: Path) -> BatcherSettings:
    """What the container runs with: the file of the ConfigMap is laid where its argument says."""
    mounted = next(one["mountPath"] for one in WORKER["volumeMounts"] if one["name"] == "settings")
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    arguments = [argument.replace(mounted, str(tmp_path)) for argument in WORKER["args"]]
    return settings_of(arguments, {**ENVIRONMENT, "BATCHING_SINK": "postgresql://app@localhost/app"})


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.relative_to(HERE).as_posix())
def test_a_manifest_is_valid(path: Path) -> None:
    for one in documents(path):
        if one["kind"] not in CUSTOM:
            kubernetes_validate.validate(one, "1.37", strict=True)


def test_what_a_kustomization_builds_is_there() -> None:
    for name in BASE["resources"]:
        assert (HERE / name).is_file(), name
    assert BASE["images"] == [{"name": WORKER["image"], "newTag": PROJECT["project"]["version"]}]


@pytest.mark.kubectl
@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubectl_builds_the_kustomization() -> None:
    done = subprocess.run(["kubectl", "kustomize", str(HERE)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"image: temporal-batching:{PROJECT['project']['version']}" in done.stdout


def test_the_worker_understands_its_settings_and_its_arguments(tmp_path: Path) -> None:
    found = settings(tmp_path)
    assert (found.name, found.shards) == ("main", 1)
    assert found.tables is not None


def test_the_worker_has_time_to_finish_its_flushes(tmp_path: Path) -> None:
    needed = settings(tmp_path).flush_timeout.total_seconds()
    assert POD["terminationGracePeriodSeconds"] >= needed + 10


def test_temporal_is_reached_as_the_files_say(tmp_path: Path) -> None:
    file = tmp_path / "temporal.toml"
    file.write_text(FILES["temporal.toml"], encoding="utf-8")
    config = connect_config({"TEMPORAL_CONFIG_FILE": str(file)})
    assert set(config) == {"target_host", "namespace"}
    assert ENVIRONMENT["TEMPORAL_CONFIG_FILE"] == "/etc/batching/temporal.toml"


def test_mutual_tls_is_a_matter_of_the_comments_in_the_file(tmp_path: Path) -> None:
    text = FILES["temporal.toml"]
    for line in text.splitlines():
        if "cert_path" in line or "key_path" in line:
            _, _, path = line.partition(" = ")
            name = Path(path.strip('"')).name
            (tmp_path / name).write_text(name, encoding="utf-8")
            text = text.replace(path, f'"{tmp_path / name}"')
    file = tmp_path / "temporal.toml"
    file.write_text(text.replace("\n# [", "\n[").replace("\n# client", "\nclient"), encoding="utf-8")
    tls = connect_config({"TEMPORAL_CONFIG_FILE": str(file)})["tls"]
    assert (tls.client_cert, tls.client_private_key) == (b"tls.crt", b"tls.key")


def test_the_probes_ask_what_is_answered_and_wait_longer_than_a_look_takes() -> None:
    assert {
        "health": port_of(ENVIRONMENT["BATCHING_HEALTH"]),
        "metrics": port_of(ENVIRONMENT["BATCHING_METRICS"]),
    } == PORTS
    wanted = {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    for probe, path in wanted.items():
        assert WORKER[probe]["httpGet"] == {"path": path, "port": "health"}
        assert WORKER[probe]["timeoutSeconds"] > LOOK_TIMEOUT.total_seconds()


def test_whoever_selects_the_workers_finds_them() -> None:
    assert DEPLOYMENT["spec"]["selector"]["matchLabels"] == LABELS
    (spread,) = POD["topologySpreadConstraints"]
    selectors = [
        resource("PodDisruptionBudget")["spec"]["selector"],
        resource("PodMonitor")["spec"]["selector"],
        resource("NetworkPolicy")["spec"]["podSelector"],
        spread["labelSelector"],
    ]
    assert [one["matchLabels"] for one in selectors] == [LABELS] * len(selectors)


def test_metrics_are_scraped_at_the_port_that_serves_them() -> None:
    annotations = DEPLOYMENT["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(PORTS["metrics"])
    (endpoint,) = resource("PodMonitor")["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == "metrics"
    (rule,) = resource("NetworkPolicy")["spec"]["ingress"]
    assert [port["port"] for port in rule["ports"]] == ["metrics"]


def test_the_ledger_is_pruned_by_a_command_that_there_is_and_as_the_worker_runs(tmp_path: Path) -> None:
    (pruner,) = PRUNING["containers"]
    mounted = next(one["mountPath"] for one in pruner["volumeMounts"] if one["name"] == "settings")
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    arguments = [argument.replace(mounted, str(tmp_path)) for argument in pruner["args"]]
    assert settings_of(arguments, {"BATCHING_SINK": "postgresql://pruner@localhost/app"}).name == "main"
    for part in ("securityContext", "volumeMounts", "image"):
        assert pruner[part] == WORKER[part]
    for part in ("securityContext", "volumes", "serviceAccountName", "automountServiceAccountToken"):
        assert PRUNING[part] == POD[part]


@pytest.mark.parametrize("pod", [POD, PRUNING], ids=["worker", "prune"])
def test_every_secret_that_is_referred_to_is_in_the_example(pod: Any) -> None:
    examples = {one["metadata"]["name"]: one["stringData"] for one in resources("Secret")}
    (container,) = pod["containers"]
    for one in container["env"]:
        if "valueFrom" in one:
            reference = one["valueFrom"]["secretKeyRef"]
            assert reference["key"] in examples[reference["name"]]
    for volume in pod["volumes"]:
        if "secret" in volume:
            assert volume["secret"]["secretName"] in examples
            assert volume["secret"]["optional"]
    mounts = {one["mountPath"] for one in container["volumeMounts"]}
    assert mounts >= {"/etc/temporal-tls", "/etc/database-tls"}
    assert "sslrootcert=/etc/database-tls/ca.crt" in examples["temporal-batching"]["sink"]
    for parameter in resource("TriggerAuthentication")["spec"]["secretTargetRef"]:
        assert parameter["key"] in examples[parameter["name"]]


def test_a_worker_has_no_rights_that_it_does_not_need() -> None:
    user = instructions("USER")[-1].partition(":")[0]
    assert POD["securityContext"]["runAsUser"] == int(user) > 0
    assert POD["securityContext"]["runAsNonRoot"]
    assert POD["automountServiceAccountToken"] is False
    context = WORKER["securityContext"]
    assert context["readOnlyRootFilesystem"]
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}


def test_an_autoscaler_scales_the_workers_by_what_they_work_on(tmp_path: Path) -> None:
    by_cpu, by_backlog = resource("HorizontalPodAutoscaler"), resource("ScaledObject")
    name = DEPLOYMENT["metadata"]["name"]
    assert by_cpu["spec"]["scaleTargetRef"]["name"] == by_backlog["spec"]["scaleTargetRef"]["name"] == name
    assert min(by_cpu["spec"]["minReplicas"], by_backlog["spec"]["minReplicaCount"]) >= 2
    (trigger,) = by_backlog["spec"]["triggers"]
    file = tmp_path / "temporal.toml"
    file.write_text(FILES["temporal.toml"], encoding="utf-8")
    temporal = connect_config({"TEMPORAL_CONFIG_FILE": str(file)})
    found = {name: trigger["metadata"][name] for name in ("taskQueue", "endpoint", "namespace")}
    assert found == {
        "taskQueue": settings(tmp_path).task_queue,
        "endpoint": temporal["target_host"],
        "namespace": temporal["namespace"],
    }
    assert seconds(f"{by_cpu['spec']['behavior']['scaleDown']['stabilizationWindowSeconds']}s") >= 300
