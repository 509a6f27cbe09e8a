"""The Kubernetes manifest agrees with the service: probes, settings, grace, rights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from service.settings import Settings, settings_from, unknown_variables

MANIFEST = Path(__file__).parents[2] / "deploy/kubernetes/lungseg.yaml"


VERSIONS = ("1.29", "1.34")
"""Of Kubernetes; `policy/v1` and all else here are in both."""


def documents() -> dict[str, Any]:
    return {one["kind"]: one for one in yaml.safe_load_all(MANIFEST.read_text())}


def pod() -> dict[str, Any]:
    return dict(documents()["Deployment"]["spec"]["template"]["spec"])


def test_it_asks_for_as_few_rights_as_the_image_needs() -> None:
    (container,) = pod()["containers"]
    assert pod()["securityContext"]["runAsUser"] == 10001
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod()["automountServiceAccountToken"] is False
    assert documents()["NetworkPolicy"]["spec"]["egress"] == []


def test_probes_and_settings_are_ones_that_the_service_has() -> None:
    (container,) = pod()["containers"]
    paths = {
        kind: container[f"{kind}Probe"]["httpGet"]["path"]
        for kind in ("startup", "liveness", "readiness")
    }
    # A restart heals nothing that readiness tells, so only readiness asks for masks.
    assert paths == {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}
    environment = {one["name"]: one["value"] for one in container["env"]}
    assert unknown_variables(environment) == []
    assert settings_from([], environment).api_keys_file == Path("/keys/keys")
    assert pod()["terminationGracePeriodSeconds"] > Settings().drain_timeout_s + 10
    assert pod()["enableServiceLinks"] is False


def test_selectors_meet() -> None:
    labels = documents()["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for selector in (
        documents()["Deployment"]["spec"]["selector"]["matchLabels"],
        documents()["Service"]["spec"]["selector"],
        documents()["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", sorted(documents()))
def test_kubernetes_own_schema_accepts_it(kind: str, version: str) -> None:
    kubernetes_validate.validate(documents()[kind], version, strict=True)


def test_that_schema_refuses_a_misspelt_key() -> None:
    deployment = documents()["Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    container["readinessProb"] = container.pop("readinessProbe")
    with pytest.raises(kubernetes_validate.ValidationError, match="readinessProb"):
        kubernetes_validate.validate(deployment, VERSIONS[0], strict=True)


def test_one_late_answer_takes_no_replica_out_and_a_frozen_one_is_restarted() -> None:
    (container,) = pod()["containers"]
    readiness, liveness = container["readinessProbe"], container["livenessProbe"]
    assert readiness["failureThreshold"] >= 2
    assert readiness["failureThreshold"] * readiness["periodSeconds"] <= 15
    assert liveness["failureThreshold"] * liveness["periodSeconds"] <= 60
    budget = documents()["PodDisruptionBudget"]["spec"]
    labels = documents()["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert budget["selector"]["matchLabels"].items() <= labels.items()
