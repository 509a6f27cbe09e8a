"""The Kubernetes manifest agrees with the service: probes, settings, grace, rights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from service.settings import Settings, settings_from, unknown_variables

MANIFEST = Path(__file__).parents[2] / "deploy/kubernetes/lungseg.yaml"


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
