"""The files that run the service on Ray say what Ray, KubeRay and our own settings know."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator
from ray.serve.schema import ServeDeploySchema
from referencing import Registry, Resource

from service.settings import Settings

FOLDER = Path(__file__).parents[2] / "deploy" / "ray"
SCHEMA = Path(__file__).with_name("rayservice.schema.json")
KUBERNETES = ("1.29", "1.34")
"""Versions whose schemas the pods and the policy are held to."""
FREE_NAMES = {"labels", "limits", "matchLabels", "rayStartParams", "requests"}
"""Members whose own members have any name."""


@functools.cache
def rayservice_schema(version: str) -> Draft202012Validator:
    """KubeRay's types around Kubernetes' own, which take no member that they do not know."""
    folder = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{version}.0-local-strict"
    kubernetes = json.loads((folder / "_definitions.json").read_text())
    registry: Registry[Any] = Resource.from_contents(kubernetes) @ Registry()
    return Draft202012Validator(json.loads(SCHEMA.read_text()), registry=registry)


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


@pytest.mark.parametrize("version", KUBERNETES)
def test_the_schemas_of_kuberay_and_kubernetes_accept_all_of_it(version: str) -> None:
    ray_service, policy = kuberay()
    rayservice_schema(version).validate(ray_service)
    kubernetes_validate.validate(policy, version, strict=True)


def members(document: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of each member, but not of members whose name is free."""
    entries = document.items() if isinstance(document, dict) else enumerate(document)
    for name, value in entries:
        if isinstance(document, dict):
            yield (*path, name)
        if isinstance(value, dict | list) and name not in FREE_NAMES:
            yield from members(value, (*path, name))


def at(document: Any, path: Sequence[str | int]) -> Any:
    return functools.reduce(lambda found, step: found[step], path, document)


def test_that_schema_refuses_every_member_once_it_is_misspelt() -> None:
    schema = rayservice_schema(KUBERNETES[0])
    paths = list(members(kuberay()[0]))
    assert max(map(len, paths)) >= 11  # down to a container's capabilities
    for path in paths:
        ray_service, _ = copy.deepcopy(kuberay())
        parent = at(ray_service, path[:-1])
        parent[f"{path[-1]}s"] = parent.pop(path[-1])
        assert not schema.is_valid(ray_service), path


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("authOptions.mode", "password"),
        ("enableInTreeAutoscaling", "yes"),
        ("headGroupSpec.rayStartParams.num-cpus", 0),
        ("headGroupSpec.template.spec.containers", {}),
        ("workerGroupSpecs.0.replicas", "2"),
        ("workerGroupSpecs.0.maxReplicas", 2**31),
        ("workerGroupSpecs.0.template.spec.containers.0.ports.0.containerPort", "8000"),
        ("workerGroupSpecs.0.template.spec.securityContext.runAsNonRoot", "true"),
    ],
)
def test_that_schema_refuses_a_value_of_another_kind(path: str, value: object) -> None:
    ray_service, _ = copy.deepcopy(kuberay())
    steps = [int(step) if step.isdecimal() else step for step in path.split(".")]
    cluster = ray_service["spec"]["rayClusterConfig"]
    assert at(cluster, steps) != value
    at(cluster, steps[:-1])[steps[-1]] = value
    errors = list(rayservice_schema(KUBERNETES[0]).iter_errors(ray_service))
    assert [list(error.absolute_path) for error in errors] == [["spec", "rayClusterConfig", *steps]]


@pytest.mark.parametrize(
    "path", ["headGroupSpec", "headGroupSpec.template", "workerGroupSpecs.0.maxReplicas"]
)
def test_that_schema_refuses_a_service_without_a_required_member(path: str) -> None:
    ray_service, _ = copy.deepcopy(kuberay())
    steps = [int(step) if step.isdecimal() else step for step in path.split(".")]
    del at(ray_service["spec"]["rayClusterConfig"], steps[:-1])[steps[-1]]
    (error,) = rayservice_schema(KUBERNETES[0]).iter_errors(ray_service)
    assert f"'{steps[-1]}' is a required property" in error.message


def test_the_operator_makes_the_token_and_reaches_the_dashboard() -> None:
    cluster = kuberay()[0]["spec"]["rayClusterConfig"]
    assert cluster["authOptions"] == {"mode": "token"}
    # The operator deploys the application through the dashboard, at the head's address.
    assert "dashboard-host" not in cluster["headGroupSpec"]["rayStartParams"]
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


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
