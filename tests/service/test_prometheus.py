"""Rules and scrape configuration: every metric exists, `promtool` agrees, a real Prometheus reads.

The last two need the Debian package `prometheus` (or a folder with its two programs named by
`PROMETHEUS_FOLDER`) and are skipped, loudly, where it is not.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

import httpx
import pytest
import yaml
from fake_model import picture, png
from prometheus_client import generate_latest

from benchmarks.server_process import running_server
from service.metrics import Metrics

FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus"


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
    named = set(re.findall(r"\blungseg_\w+", " ".join(expressions())))
    assert named
    for name in named:
        assert name in known or name.removesuffix("_bucket") in known, name


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "rules.yml"),
        ("test", "rules", "rules_test.yml"),
    ],
)
def test_promtool_agrees(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [program("promtool"), *arguments], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_real_prometheus_reads_the_service(tiny_artifact: Path, tmp_path: Path) -> None:
    prometheus = program("prometheus")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with running_server(tiny_artifact, ["--threads", "1"]) as server:
        config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
        config["rule_files"] = [str(FOLDER / "rules.yml")]
        config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{server.port}"]}]
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
        command = [
            prometheus, f"--config.file={tmp_path}/prometheus.yml",
            f"--storage.tsdb.path={tmp_path}/data", f"--web.listen-address={address}",
        ]  # fmt: skip
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path
        )
        try:
            wait_for(address, "lungseg_ready == 1")
            assert server.segment(png(picture()), {}).status == 200
            wait_for(address, "lungseg:request_duration_seconds:p95_5m > 0")
            for expression in expressions():
                query(address, expression)
            assert not query(address, "ALERTS")
        finally:
            process.terminate()
            process.wait(20)


def query(address: str, expression: str) -> list[object]:
    answer = httpx.get(f"http://{address}/api/v1/query", params={"query": expression}, timeout=5)
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
