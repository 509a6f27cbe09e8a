"""Rules, dashboard and scrape configuration: `promtool` agrees, a real Prometheus reads them.

The last two need the Debian package `prometheus` (or a folder with its two programs named by
`PROMETHEUS_FOLDER`) and are skipped, loudly, where it is not.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml
from prometheus_client import generate_latest

from benchmarks.service.server_process import RunningServer, running_server
from service.metrics import Metrics
from tests.service.fake_model import picture, png

FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus"
DASHBOARD = FOLDER.parent / "grafana" / "dashboards" / "lungseg.json"


def program(name: str) -> str:
    folder = os.environ.get("PROMETHEUS_FOLDER")
    found = shutil.which(name, path=folder or None)
    if found is None:
        pytest.skip(f"{name} is not installed: the rules were NOT validated by it")
    return found


def expressions() -> list[str]:
    groups = yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


def test_every_metric_in_a_rule_exists() -> None:
    text = generate_latest(Metrics(queue_limit=5, queue_depth=lambda: 0).registry).decode()
    known = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    used = " ".join([*expressions(), *dashboard_queries()])
    named = set(re.findall(r"\blungseg_\w+", used)) - {"lungseg_gpu_memory_bytes"}
    assert named
    for name in named:
        assert name in known or re.sub("_(bucket|sum|count)$", "", name) in known, name


def test_every_alert_is_tested_and_explained() -> None:
    groups = yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    tests = [(FOLDER / f"{name}.yml").read_text() for name in ("rules_test", "drift_rules_test")]
    tested = set(re.findall(r"alertname: (\w+)", "".join(tests)))
    explained = (FOLDER.parents[1] / "docs" / "operations" / "runbook.md").read_text()
    assert alerts == tested
    assert alerts == set(re.findall(r"^\| `(Lungseg\w+)`", explained, re.MULTILINE))


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "config", "several_services.yml"),
        ("check", "rules", "rules.yml"),
        ("test", "rules", "rules_test.yml"),
        ("test", "rules", "drift_rules_test.yml"),
        ("check", "rules", "node_rules.yml"),
        ("test", "rules", "node_rules_test.yml"),
    ],
)
def test_promtool_agrees(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [program("promtool"), *arguments], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def scraped(
    tiny_artifact: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RunningServer, str]]:
    """A running service, and the address of a Prometheus that scrapes it."""
    prometheus = program("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    with running_server(tiny_artifact, ["--threads", "1"]) as server:
        with socket.socket() as free:  # free after the service has taken its own
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
        config["rule_files"] = [str(FOLDER / "rules.yml")]
        config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{server.port}"]}]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        command = [
            prometheus, f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/data", f"--web.listen-address={address}",
        ]  # fmt: skip
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder
        )
        try:
            wait_for(address, "lungseg_ready == 1")
            yield server, address
        finally:
            process.terminate()
            process.wait(20)


def test_a_real_prometheus_reads_the_service(scraped: tuple[RunningServer, str]) -> None:
    server, address = scraped
    assert server.segment(png(picture()), {}).status == 200
    wait_for(address, "lungseg:request_duration_seconds:p95_5m > 0")
    for expression in expressions():
        query(address, expression)
    assert not query(address, "ALERTS")


def test_every_query_of_the_dashboard_returns_series(scraped: tuple[RunningServer, str]) -> None:
    server, address = scraped
    for round_ in range(2):  # a rate needs a series before and after it grew
        for seed in range(5):
            assert server.segment(png(picture(seed)), {}).status == 200
        blank = server.segment(png(np.zeros((64, 64), np.uint8)), {})
        assert blank.status == 200 and b"constant_image" in blank.body
        assert server.segment(b"no image", {}).status == 400
        wait_for(address, f'lungseg_rejected_total{{reason="undecodable_image"}} == {round_ + 1}')
        time.sleep(1.2)
    queries = dashboard_queries()
    assert len(queries) > 20
    take_weeks = {"lungseg:drift_outside:share_7d", "lungseg:drift_moved:7d"}
    for one in set(queries) - take_weeks:
        wait_for(address, one)
    assert not any(query(address, one) for one in take_weeks)
    assert query(address, share_of_half_a_minute("lungseg:drift_outside:share_7d"))


def share_of_half_a_minute(record: str) -> str:
    """A rule over a week as it would be over half a minute, of however few X-rays."""
    groups = yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"]
    rules = {rule.get("record"): rule["expr"] for group in groups for rule in group["rules"]}
    compared = f"({rules['lungseg:drift_compared:7d']}) > 0"
    expression = rules[record].replace("lungseg:drift_compared:7d >= 100", compared)
    assert expression != rules[record]
    return str(expression).replace("[7d]", "[30s]")


def dashboard_queries() -> list[str]:
    """The queries with Grafana's variables filled in."""
    dashboard = json.loads(DASHBOARD.read_text())
    return [
        target["expr"].replace("$__rate_interval", "30s").replace("$instance", ".+")
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
    ]


def test_the_panels_of_the_dashboard_lie_beside_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not cells & taken and place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells


def query(address: str, expression: str) -> list[object]:
    answer = httpx.get(f"http://{address}/api/v1/query", params={"query": expression}, timeout=5)
    if answer.status_code == 503:  # it is starting, and says so in plain text
        return []
    body = answer.json()
    assert body["status"] == "success", body
    return list(body["data"]["result"])


def wait_for(address: str, expression: str) -> None:
    stop_by = time.monotonic() + 30
    while time.monotonic() < stop_by:
        try:
            if query(address, expression):
                return
        except httpx.TransportError:
            pass  # it is starting
        time.sleep(0.2)
    raise AssertionError(f"{expression} never came")
