"""The files that run the service on Ray say what Ray, KubeRay and our own settings know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from ray.serve.schema import ServeDeploySchema

from service.settings import Settings

FOLDER = Path(__file__).parents[2] / "deploy" / "ray"


def kuberay() -> tuple[dict[str, Any], dict[str, Any]]:
    """The RayService and the NetworkPolicy."""
    ray_service, policy = yaml.safe_load_all((FOLDER / "kuberay.yaml").read_text())
    return ray_service, policy


def configurations() -> list[dict[str, Any]]:
    plain = yaml.safe_load((FOLDER / "serve.yaml").read_text())
    return [plain, yaml.safe_load(kuberay()[0]["spec"]["serveConfigV2"])]


def pods() -> list[dict[str, Any]]:
    cluster = kuberay()[0]["spec"]["rayClusterConfig"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"] for group in groups]


def test_ray_takes_both_configurations_and_ours_are_the_settings() -> None:
    for one in configurations():
        (application,) = ServeDeploySchema.model_validate(one).applications
        assert application.import_path == "service.ray_app:app"
        assert set(application.args) <= set(Settings.model_fields)
        Settings(**application.args)
        assert [each.name for each in application.deployments] == ["lungseg"]


def test_what_listens_beyond_this_machine_asks_for_keys() -> None:
    for one in configurations():
        arguments = one["applications"][0]["args"]
        if one["http_options"]["host"] != "127.0.0.1":
            assert arguments["host"] == one["http_options"]["host"]
            assert arguments["api_keys_file"]


def test_ray_service_has_the_members_that_kuberay_requires() -> None:
    ray_service, _ = kuberay()
    assert (ray_service["apiVersion"], ray_service["kind"]) == ("ray.io/v1", "RayService")
    cluster = ray_service["spec"]["rayClusterConfig"]
    assert set(cluster) >= {"rayVersion", "headGroupSpec", "workerGroupSpecs"}
    assert set(cluster["headGroupSpec"]) == {"rayStartParams", "template"}
    assert cluster["authOptions"] == {"mode": "token"}
    # The operator deploys the application through the dashboard, at the head's address.
    assert "dashboard-host" not in cluster["headGroupSpec"]["rayStartParams"]
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert {"groupName", "rayStartParams", "template"} <= set(group)
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def test_every_pod_is_confined_reports_nothing_and_asks_for_a_token() -> None:
    for pod in pods():
        security = pod["spec"]["securityContext"]
        assert security["runAsNonRoot"] is True
        (container,) = pod["spec"]["containers"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        environment = {one["name"]: one for one in container["env"]}
        assert environment["RAY_USAGE_STATS_ENABLED"]["value"] == "0"
        assert not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"} & set(environment)  # KubeRay sets them
        assert set(container["resources"]["limits"]) == {"cpu", "memory"}


def test_the_network_policy_covers_every_pod_and_opens_the_http_port_alone() -> None:
    _, policy = kuberay()
    label = policy["spec"]["podSelector"]["matchLabels"].items()
    assert all(label <= pod["metadata"]["labels"].items() for pod in pods())
    own, callers = policy["spec"]["ingress"]
    assert [one["port"] for one in callers["ports"]] == [8000]
    assert own["from"][0]["podSelector"]["matchLabels"].items() == label
