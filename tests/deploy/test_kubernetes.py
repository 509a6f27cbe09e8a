"""The Kubernetes overlays: kustomize builds them, schemas accept them, they fit the service.

Needs `kubectl` (its own kustomize; no cluster), and is skipped, loudly, where there is none.
"""

from __future__ import annotations

import copy
import functools
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from service.dicom_node.settings import DimseDestination, NodeSettings
from service.settings import Settings, settings_from, unknown_variables

FOLDER = Path(__file__).parents[2] / "deploy/kubernetes"
OVERLAYS = ("cpu", "gpu", "pacs")
VERSIONS = ("1.29", "1.34")
"""Of Kubernetes; `policy/v1` and all else here are in both."""


def built(folder: Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed: the overlays were NOT built")
    command = ["kubectl", "kustomize", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@functools.cache
def _documents(overlay: str) -> str:
    done = built(FOLDER / overlay)
    assert (done.returncode, done.stderr) == (0, "")  # nothing deprecated is said either
    return done.stdout


def documents(overlay: str) -> dict[str, Any]:
    """What an overlay applies, by kind and name."""
    found = list(yaml.safe_load_all(_documents(overlay)))
    return {f"{one['kind']}/{one['metadata']['name'].split('-dk')[0]}": one for one in found}


def spec(overlay: str, name: str) -> dict[str, Any]:
    return dict(documents(overlay)[name]["spec"])


def pod(overlay: str, name: str = "Deployment/lungseg") -> dict[str, Any]:
    return dict(spec(overlay, name)["template"]["spec"])


def container(overlay: str, name: str = "Deployment/lungseg") -> dict[str, Any]:
    (found,) = pod(overlay, name)["containers"]
    return dict(found)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_own_schema_accepts_all_of_it(overlay: str, version: str) -> None:
    found = documents(overlay)
    assert len(found) == {"cpu": 4, "gpu": 4, "pacs": 8}[overlay]
    for one in found.values():
        kubernetes_validate.validate(one, version, strict=True)


def test_that_schema_refuses_a_misspelt_key() -> None:
    deployment = copy.deepcopy(documents("cpu")["Deployment/lungseg"])
    (found,) = deployment["spec"]["template"]["spec"]["containers"]
    found["readinessProb"] = found.pop("readinessProbe")
    with pytest.raises(kubernetes_validate.ValidationError, match="readinessProb"):
        kubernetes_validate.validate(deployment, VERSIONS[0], strict=True)


def test_kustomize_refuses_an_overlay_with_a_file_missing(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "kubernetes")
    (tmp_path / "kubernetes/base/service.yaml").unlink()
    done = built(tmp_path / "kubernetes/cpu")
    assert done.returncode != 0 and "service.yaml" in done.stderr


@pytest.mark.parametrize(
    ("overlay", "name", "image"),
    [
        ("cpu", "Deployment/lungseg", "adalora-qat:cpu"),
        ("gpu", "Deployment/lungseg", "adalora-qat:cuda"),
        ("pacs", "Deployment/lungseg", "adalora-qat:cpu"),
        ("pacs", "StatefulSet/lungseg-node", "adalora-qat:cpu-pacs"),
    ],
)
def test_each_container_has_its_image_and_as_few_rights_as_it_needs(
    overlay: str, name: str, image: str
) -> None:
    found, around = container(overlay, name), pod(overlay, name)
    assert found["image"] == image
    assert found["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert around["securityContext"]["runAsUser"] == 10001
    assert around["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert around["automountServiceAccountToken"] is around["enableServiceLinks"] is False
    assert set(found["resources"]["limits"]) >= {"cpu", "memory"}
    mounted = {one["name"] for one in found["volumeMounts"]}
    claimed = spec(overlay, name).get("volumeClaimTemplates", ())
    given = {one["name"] for one in around["volumes"]}
    assert mounted == given | {one["metadata"]["name"] for one in claimed}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_probes_and_settings_are_ones_that_the_service_has(overlay: str) -> None:
    found = container(overlay)
    probes = {kind: found[f"{kind}Probe"] for kind in ("startup", "liveness", "readiness")}
    # A restart heals nothing that readiness tells, so only readiness asks for masks.
    assert {kind: one["httpGet"]["path"] for kind, one in probes.items()} == {
        "startup": "/livez", "liveness": "/livez", "readiness": "/readyz",
    }  # fmt: skip
    environment = {one["name"]: one["value"] for one in found["env"]}
    assert unknown_variables(environment) == []
    settings = settings_from([], environment)
    assert settings.tls_cert and settings.tls_key  # TLS inside, so probes speak it
    assert {one["httpGet"]["scheme"] for one in probes.values()} == {"HTTPS"}
    mounts = {Path(one["mountPath"]) for one in found["volumeMounts"]}
    files = (settings.api_keys_file, settings.tls_cert, settings.tls_key)
    assert {file.parent for file in files if file is not None} <= mounts
    assert pod(overlay)["terminationGracePeriodSeconds"] > Settings().drain_timeout_s + 10


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_one_late_answer_takes_no_replica_out_and_a_frozen_one_is_restarted(overlay: str) -> None:
    readiness, liveness = container(overlay)["readinessProbe"], container(overlay)["livenessProbe"]
    assert readiness["failureThreshold"] >= 2
    assert readiness["failureThreshold"] * readiness["periodSeconds"] <= 15
    assert liveness["failureThreshold"] * liveness["periodSeconds"] <= 60


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_selectors_and_ports_meet(overlay: str) -> None:
    labels = spec(overlay, "Deployment/lungseg")["template"]["metadata"]["labels"]
    for selector in (
        spec(overlay, "Deployment/lungseg")["selector"]["matchLabels"],
        spec(overlay, "Service/lungseg")["selector"],
        spec(overlay, "NetworkPolicy/lungseg")["podSelector"]["matchLabels"],
        spec(overlay, "PodDisruptionBudget/lungseg")["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    (port,), (served,) = spec(overlay, "Service/lungseg")["ports"], container(overlay)["ports"]
    assert port["targetPort"] == served["name"] and served["containerPort"] == Settings().port


@pytest.mark.parametrize("version", VERSIONS)
def test_models_of_ones_own_come_from_a_volume(version: str, tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "kubernetes")
    overlay = tmp_path / "kubernetes/own"
    overlay.mkdir()
    content = {"resources": ["../cpu"], "components": ["../models"]}
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(content))
    done = built(overlay)
    assert (done.returncode, done.stderr) == (0, "")
    (found,) = [one for one in yaml.safe_load_all(done.stdout) if one["kind"] == "Deployment"]
    kubernetes_validate.validate(found, version, strict=True)
    around = found["spec"]["template"]["spec"]
    (inside,) = around["containers"]
    environment = {one["name"]: one["value"] for one in inside["env"]}
    assert unknown_variables(environment) == []
    settings = settings_from([], environment)
    assert settings.shadow_model is not None and len(settings.further_models) == 1
    (mount,) = [one for one in inside["volumeMounts"] if one["name"] == "models"]
    for folder in (*settings.further_models, settings.shadow_model):
        assert folder.is_relative_to(mount["mountPath"])
    assert mount["readOnly"]
    assert "models" in {one["name"] for one in around["volumes"]}
    assert settings.api_keys_file is not None  # what the overlay had is there still


def test_the_service_opens_no_connection_and_takes_none_from_just_anywhere() -> None:
    policy = spec("cpu", "NetworkPolicy/lungseg")
    assert policy["policyTypes"] == ["Ingress", "Egress"] and policy["egress"] == []
    (rule,) = policy["ingress"]
    assert len(rule["from"]) == 2 and rule["ports"] == [{"port": 8000}]


def test_a_gpu_is_asked_for_and_its_kernels_may_run_from_tmp() -> None:
    assert container("gpu")["resources"]["limits"]["nvidia.com/gpu"] == 1
    (scratch,) = [one for one in pod("gpu")["volumes"] if one["name"] == "scratch"]
    assert scratch["emptyDir"]["medium"] == ""
    strategy = spec("gpu", "Deployment/lungseg")["strategy"]["rollingUpdate"]
    assert strategy == {"maxUnavailable": 1, "maxSurge": 0}


def test_the_node_reaches_service_and_archive_by_its_settings_and_nothing_else() -> None:
    name = "StatefulSet/lungseg-node"
    (config,) = [one for one in documents("pacs").values() if one["kind"] == "ConfigMap"]
    used = [one["configMap"]["name"] for one in pod("pacs", name)["volumes"] if "configMap" in one]
    assert used == [config["metadata"]["name"]]
    settings = NodeSettings(**tomllib.loads(config["data"]["node.toml"]))
    (service,), (archive,) = settings.segment.services, settings.destinations
    assert service.url == "https://lungseg:443"
    mounts = {Path(one["mountPath"]) for one in container("pacs", name)["volumeMounts"]}
    files = (service.trusted, service.api_key_file, settings.spool.folder / "x")
    assert {file.parent for file in files if file is not None} <= mounts
    policy = spec("pacs", "NetworkPolicy/lungseg-node")
    assert isinstance(archive, DimseDestination)
    allowed = [port["port"] for rule in policy["egress"] for port in rule["ports"]]
    assert allowed == [Settings().port, archive.port, 53, 53]
    labels = spec("pacs", name)["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    callers = spec("pacs", "NetworkPolicy/lungseg")["ingress"][0]["from"][0]
    assert callers["podSelector"]["matchLabels"].items() <= labels.items()
    ports = {one["containerPort"] for one in container("pacs", name)["ports"]}
    assert ports == {settings.receive.port, settings.metrics.port}
    assert spec("pacs", "Service/lungseg-node")["externalTrafficPolicy"] == "Local"
    (keys,) = [one for one in pod("pacs", name)["volumes"] if one["name"] == "tls"]
    assert [one["key"] for one in keys["secret"]["items"]] == ["ca.crt"]  # and no private key
