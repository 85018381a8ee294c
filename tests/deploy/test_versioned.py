"""The workers of one version, beside those of other versions: a kustomization on top of the manifests."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Any

import pytest
from ruamel.yaml import YAML

from temporal_batching.settings import load
from tests.support.deployment import DEPLOY, PROJECT, ROOT, document, environment

HERE = DEPLOY / "kubernetes-versioned"
OVERLAY = document(HERE / "kustomization.yaml")
BASE = document(DEPLOY / "kubernetes" / "kustomization.yaml")
LABEL, BUILD_ID = "app.kubernetes.io/version", "v1"

APPLY = "kubectl apply -k deploy/kubernetes-versioned"
DELETE = f"kubectl delete deployment,configmap,serviceaccount,poddisruptionbudget --selector {LABEL}={BUILD_ID}"
COMMANDS = (APPLY, DELETE)
"""As the page about upgrades shows them."""


def built() -> dict[str, Any]:
    """The resources by their kinds."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    said = subprocess.run(["kubectl", "version", "--client", "-o", "json"], capture_output=True, text=True, timeout=60)
    if "kustomizeVersion" not in json.loads(said.stdout):
        pytest.skip("this kubectl is too old to say the version of its kustomize, which knows no labels")
    done = subprocess.run(["kubectl", "kustomize", str(HERE)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return {one["kind"]: one for one in YAML(typ="safe", pure=True).load_all(done.stdout)}


def test_the_build_id_is_in_the_places_that_are_marked_with_it() -> None:
    (labels,) = OVERLAY["labels"]
    assert OVERLAY["nameSuffix"] == f"-{BUILD_ID}"
    assert labels == {"pairs": {LABEL: BUILD_ID}, "includeSelectors": True}
    lines = (HERE / "kustomization.yaml").read_text(encoding="utf-8").splitlines()
    marked = [line for line in lines if line.endswith("# the build id")]
    assert [len(re.findall(BUILD_ID, line)) for line in marked] == [1, 1]


def test_what_is_deleted_is_what_was_applied() -> None:
    assert (ROOT / APPLY.split()[-1]) == HERE
    assert [(HERE / base).resolve() for base in OVERLAY["resources"]] == [DEPLOY / "kubernetes"]
    applied = {document(DEPLOY / "kubernetes" / name)["kind"] for name in BASE["resources"]}
    assert set(DELETE.split()[2].split(",")) == {kind.lower() for kind in applied}
    assert OVERLAY["images"] == BASE["images"]
    assert OVERLAY["images"][0]["newTag"] == PROJECT["project"]["version"]


@pytest.mark.kubectl
def test_every_resource_has_the_version_in_its_name_and_selects_its_own_pods() -> None:
    resources = built()
    assert {one["metadata"]["name"] for one in resources.values()} == {f"temporal-batching-{BUILD_ID}"}
    deployment, budget = resources["Deployment"]["spec"], resources["PodDisruptionBudget"]["spec"]
    pod, labels = deployment["template"]["spec"], deployment["template"]["metadata"]["labels"]
    assert labels[LABEL] == BUILD_ID
    selectors = [deployment["selector"], budget["selector"]]
    selectors += [one["labelSelector"] for one in pod["topologySpreadConstraints"]]
    assert [one["matchLabels"] for one in selectors] == [labels] * 3
    assert pod["serviceAccountName"] == resources["ServiceAccount"]["metadata"]["name"]
    settings = next(volume for volume in pod["volumes"] if volume["name"] == "settings")
    assert settings["configMap"]["name"] == resources["ConfigMap"]["metadata"]["name"]


@pytest.mark.kubectl
def test_the_worker_has_the_version_of_its_pod() -> None:
    pod = built()["Deployment"]["spec"]["template"]
    (worker,) = pod["spec"]["containers"]
    variables = {one["name"]: one for one in worker["env"]}
    assert "BATCHING_SINK" in variables, "what the base sets stays"
    path = variables["BATCHING_BUILD_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert path == f"metadata.labels['{LABEL}']"
    names = {
        "BATCHING_DEPLOYMENT_NAME": variables["BATCHING_DEPLOYMENT_NAME"]["value"],
        "BATCHING_BUILD_ID": pod["metadata"]["labels"][LABEL],
    }
    with environment(names):
        config = load().deployment_config()
    assert config is not None
    assert (config.version.deployment_name, config.version.build_id) == ("batcher", BUILD_ID)
