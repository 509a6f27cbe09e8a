"""`docker-compose.yml`: each profile passes Compose's own check and keeps its promises."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from service import healthcheck
from service.settings import Settings, settings_from, unknown_variables

ROOT = Path(__file__).parents[2]
OURS = ("gpu", "cpu")
ONE_GPU = ("gpu0", "gpu1")
"""The services of a host with several GPUs, one for each."""


def compose() -> dict[str, Any]:
    loaded = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert isinstance(loaded, dict)
    return loaded


def services() -> dict[str, Any]:
    return dict(compose()["services"])


def seconds(text: str) -> float:
    assert text.endswith("s")
    return float(text[:-1])


def compose_command() -> list[str]:
    """Compose 2 as Docker's plugin, or Debian's `docker-compose`; neither needs a daemon here."""
    plugin = ["docker", "compose"]
    has_plugin = (
        shutil.which("docker")
        and not subprocess.run([*plugin, "version"], capture_output=True, check=False).returncode
    )
    if has_plugin:
        return plugin
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    pytest.skip("no docker compose: docker-compose.yml was NOT checked against its schema")


@pytest.mark.parametrize(
    ("profile", "first"), [("gpu", "gpu"), ("cpu", "cpu"), ("pacs", "node"), ("gpus", "balancer")]
)
def test_compose_accepts_every_profile(profile: str, first: str) -> None:
    command = [*compose_command(), "--profile", profile, "config"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    resolved = yaml.safe_load(done.stdout)["services"]
    assert {first, "prometheus", "grafana"} <= set(resolved)


def test_one_command_starts_orthanc_with_a_node_and_a_service() -> None:
    started = {name for name, one in services().items() if "pacs" in one.get("profiles", ())}
    assert started == {"cpu", "node", "orthanc"}
    node = tomllib.loads((ROOT / "deploy/orthanc/node.toml").read_text())
    (address,) = node["segment"]["services"]
    assert address["url"] == "http://lungseg:8000"
    assert "lungseg" in services()["cpu"]["networks"]["default"]["aliases"]
    (destination,) = node["destinations"]
    assert destination["host"] == "orthanc"
    orthanc = json.loads((ROOT / "deploy/orthanc/orthanc.json").read_text())
    assert orthanc["DicomModalities"]["lungseg"] == ["LUNGSEG", "node", 11112]
    assert services()["node"]["volumes"][1] == f"node-spool:{node['spool']['folder']}"
    # Not root, it can write only where the image's folder below the volume is everybody's.
    assert Path(orthanc["StorageDirectory"]).parent == Path("/var/tmp")
    assert "orthanc-data:/var/tmp" in services()["orthanc"]["volumes"]
    assert orthanc["OHIF"]["UserConfiguration"] in services()["orthanc"]["volumes"][2]


def test_compose_refuses_a_wrong_key(tmp_path: Path) -> None:
    """The check above can fail."""
    broken = compose()
    broken["services"]["cpu"]["stop_grace"] = "60s"
    (tmp_path / "docker-compose.yml").write_text(yaml.safe_dump(broken))
    command = [*compose_command(), "--profile", "cpu", "config"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "stop_grace" in done.stderr


def test_up_alone_starts_the_gpu_service_with_monitoring() -> None:
    lines = (ROOT / ".env").read_text().splitlines()
    assert "COMPOSE_PROFILES=gpu" in lines
    assert {name for name, one in services().items() if "profiles" not in one} == {
        "prometheus", "grafana", "alertmanager",
    }  # fmt: skip
    (device,) = services()["gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia" and device["capabilities"] == ["gpu"]
    assert device["count"] == "all"  # the service runs a compute process on each


@pytest.mark.parametrize(
    "name",
    [*OURS, *ONE_GPU, "balancer", "prometheus", "grafana", "node", "orthanc"],
)
def test_every_container_is_locked_down(name: str) -> None:
    one = services()[name]
    assert one["read_only"] is True
    assert one["cap_drop"] == ["ALL"]
    assert one["security_opt"] == ["no-new-privileges:true"]
    assert one["restart"] == "unless-stopped"
    assert one["mem_limit"] and one["pids_limit"] > 0
    assert re.fullmatch(r"[1-9]\d*:\d+", one["user"])  # a number, and not root
    assert all(port.startswith("127.0.0.1:") for port in one["ports"])
    assert one["logging"]["options"]["max-size"]


@pytest.mark.parametrize("name", [*OURS, *ONE_GPU, "node"])
def test_a_frozen_process_is_ended_by_its_health_check_and_started_again(name: str) -> None:
    one = services()[name]
    assert one["init"] is True  # process 1 could not be killed from inside
    assert one["restart"] == "unless-stopped"
    assert one["healthcheck"]["test"][:4] == ["CMD", "python3", "-m", "service.healthcheck"]
    assert one["healthcheck"]["test"][-1] == "--restart-frozen"
    assert seconds(one["healthcheck"]["timeout"]) > healthcheck.TIMEOUT_S


@pytest.mark.parametrize("name", [*OURS, *ONE_GPU])
def test_the_service_may_drain_before_it_is_killed(name: str) -> None:
    grace_s = seconds(services()[name]["stop_grace_period"])
    assert grace_s > Settings().drain_timeout_s + 10


@pytest.mark.parametrize("name", [*OURS, *ONE_GPU])
def test_the_service_gets_settings_that_it_knows(name: str) -> None:
    environment = services()[name]["environment"]
    assert unknown_variables(environment) == []
    assert settings_from([], environment).allow_anyone


@pytest.mark.parametrize("name", [*OURS, *ONE_GPU])
def test_each_target_exists_in_the_one_dockerfile(name: str) -> None:
    target = services()[name]["build"]["target"]
    text = (ROOT / "Dockerfile").read_text()
    assert re.search(rf"^FROM serving AS {target}$", text, re.MULTILINE)


def test_prometheus_scrapes_the_name_that_both_services_have() -> None:
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    (target,) = config["scrape_configs"][0]["static_configs"][0]["targets"]
    host, port = target.split(":")
    for name in OURS:
        assert host in services()[name]["networks"]["default"]["aliases"]
        assert services()[name]["ports"][0].endswith(f":{port}")


def test_each_gpu_of_several_has_a_service_of_its_own_behind_nginx() -> None:
    lines = (ROOT / "deploy/gpus/compose.env").read_text().splitlines()
    assert {"COMPOSE_PROFILES=gpus", "LUNGSEG_PROMETHEUS=several_services.yml"} <= set(lines)
    started = {name for name, one in services().items() if "gpus" in one.get("profiles", ())}
    assert started == {*ONE_GPU, "balancer"}
    reserved = [
        services()[name]["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"]
        for name in ONE_GPU
    ]
    assert reserved == [["0"], ["1"]]
    logs = {services()[name]["volumes"][0] for name in ONE_GPU}
    assert len(logs) == len(ONE_GPU)  # two services cannot write one audit log
    text = (ROOT / "deploy/gpus/nginx.conf").read_text()
    addresses = [f"{name}:8000" for name in ONE_GPU]
    assert re.findall(r"^ *server (\S+) ", text, re.MULTILINE)[:2] == addresses
    assert services()["balancer"]["ports"] == services()["gpu"]["ports"]
    for name in ONE_GPU:
        assert services()[name]["ports"] == []
    scraped = yaml.safe_load((ROOT / "deploy/prometheus/several_services.yml").read_text())
    usual = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    assert scraped["scrape_configs"][0].pop("static_configs") == [{"targets": addresses}]
    usual["scrape_configs"][0].pop("static_configs")
    assert scraped == usual
    command = services()["prometheus"]["command"]
    assert "--config.file=/etc/prometheus/${LUNGSEG_PROMETHEUS:-prometheus.yml}" in command


def test_what_is_mounted_exists_and_grafana_finds_its_dashboard() -> None:
    for name in (
        "prometheus",
        "grafana",
        "alertmanager",
        "node",
        "orthanc",
        "balancer",
        *OURS,
        *ONE_GPU,
    ):
        for volume in services()[name]["volumes"]:
            source = volume.split(":")[0]
            assert source in compose()["volumes"] or (ROOT / source).exists(), source
    folder = ROOT / "deploy/grafana"
    provider = yaml.safe_load((folder / "provisioning/dashboards/lungseg.yml").read_text())
    (dashboards,) = provider["providers"]
    mounted = f"./deploy/grafana/dashboards:{dashboards['options']['path']}:ro"
    assert mounted in services()["grafana"]["volumes"]
    source = yaml.safe_load((folder / "provisioning/datasources/prometheus.yml").read_text())
    text = (folder / "dashboards/lungseg.json").read_text()
    used = {panel["datasource"]["uid"] for panel in json.loads(text)["panels"]}
    assert used == {source["datasources"][0]["uid"]}


def test_nothing_in_the_image_s_folder_is_sent_to_the_builder_by_accident() -> None:
    """`.dockerignore` lets in by name, so that no X-ray or key beside the code ends in an image."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[0] == "*"
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.M)
    needed = {source for line in copied for source in line.split()}
    assert needed == {line[1:] for line in lines if line.startswith("!")}
    assert os.path.exists(ROOT / "deploy/image/lock/cpu.txt")


@pytest.mark.parametrize("name", OURS)
def test_descriptors_are_enough_for_all_connections(name: str) -> None:
    limit = services()[name]["ulimits"]["nofile"]
    assert limit["soft"] == limit["hard"] > 10 * Settings().max_connections
