"""An alert reaches somebody: Prometheus, Alertmanager and a receiver, as real programs.

Needs Debian's packages prometheus and prometheus-alertmanager; skipped, loudly, where they are not.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from benchmarks.service.server_process import running_server
from tests.service.node_peers import free_port, until
from tests.service.test_prometheus import FOLDER, program, query, wait_for

CONFIG = FOLDER.parent / "alertmanager" / "alertmanager.yml"
KUBERNETES = FOLDER.parent / "kubernetes"


def test_amtool_agrees_with_the_configuration_and_its_routes() -> None:
    amtool = program("amtool")
    check = [amtool, "check-config", str(CONFIG)]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for labels in (["severity=critical"], ["severity=warning"], []):
        routed = [amtool, "config", "routes", "test", f"--config.file={CONFIG}", *labels]
        done = subprocess.run(routed, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout.strip()) == (0, "operators")


@contextmanager
def pager() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A receiver of alerts: its address, and what it got."""
    got: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.extend(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["alerts"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", got
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def started(*command: str) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def alertmanager(folder: Path, receiver: str) -> Iterator[str]:
    """The configuration of Compose with a receiver filled in; yields its address."""
    config = yaml.safe_load(CONFIG.read_text())
    config["route"]["group_wait"] = "1s"
    (operators,) = config["receivers"]
    operators["webhook_configs"] = [{"url": receiver}]
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    with started(
        program("prometheus-alertmanager"), f"--config.file={folder}/alertmanager.yml",
        f"--storage.path={folder}/alerts", f"--web.listen-address={address}",
        "--cluster.listen-address=",
    ):  # fmt: skip
        until(lambda: _answers(f"http://{address}/-/ready"), 30)
        yield address


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def prometheus(folder: Path, scrape: dict[str, Any], alerts_to: str | None) -> Iterator[str]:
    """Prometheus with the rules of Compose, which do not wait for minutes; yields its address."""
    rules = (FOLDER / "rules.yml").read_text()
    (folder / "rules.yml").write_text(rules.replace("for: 1m", "for: 0s"))
    config: dict[str, Any] = {
        "global": {"scrape_interval": "300ms", "evaluation_interval": "300ms"},
        "rule_files": ["rules.yml"],
        "scrape_configs": [{"job_name": "whatever it is called"} | scrape],
    }
    if alerts_to is not None:
        manager = {"static_configs": [{"targets": [alerts_to]}]}
        config["alerting"] = {"alertmanagers": [manager]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    with started(
        program("prometheus"), f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data", f"--web.listen-address={address}",
    ):  # fmt: skip
        yield address


def test_a_killed_service_is_told_to_the_receiver(tiny_artifact: Path, tmp_path: Path) -> None:
    with (
        pager() as (receiver, got),
        alertmanager(tmp_path, receiver) as manager,
        running_server(tiny_artifact, ["--threads", "1"]) as server,
    ):
        scrape = {"static_configs": [{"targets": [f"127.0.0.1:{server.port}"]}]}
        with prometheus(tmp_path, scrape, manager) as address:
            wait_for(address, "lungseg_ready == 1")
            assert not got
            server.process.kill()
            wait_for(address, 'ALERTS{alertname="LungsegDown",alertstate="firing"}')
            until(lambda: bool(got), 30)
    told = {alert["labels"]["alertname"] for alert in got}
    assert told == {"LungsegDown"}
    assert got[0]["annotations"]["summary"] == "The service does not answer scrapes"


def test_prometheus_scrapes_over_tls_with_a_key_of_the_scope_metrics(
    tiny_artifact: Path, tmp_path: Path
) -> None:
    import ssl

    make = (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=lungseg "
        "-addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem"
    )
    subprocess.run(
        [program("openssl"), *make.split()], cwd=tmp_path, check=True, capture_output=True
    )
    secret = "a key of Prometheus"
    (tmp_path / "keys").write_text(f"{hashlib.sha256(secret.encode()).hexdigest()} scopes=metrics")
    (tmp_path / "metrics-key").write_text(secret)
    flags = ["--threads", "1", "--metrics-key", "true", "--api-keys-file", f"{tmp_path}/keys"]
    flags += ["--tls-cert", f"{tmp_path}/cert.pem", "--tls-key", f"{tmp_path}/key.pem"]
    trusted = ssl.create_default_context(cafile=tmp_path / "cert.pem")
    with running_server(tiny_artifact, flags, trusted) as server:
        scrape = {
            "static_configs": [{"targets": [f"127.0.0.1:{server.port}"]}],
            "scheme": "https",
            "tls_config": {"ca_file": f"{tmp_path}/cert.pem"},
            "authorization": {"credentials_file": f"{tmp_path}/metrics-key"},
        }
        with prometheus(tmp_path, scrape, None) as address:
            wait_for(address, "lungseg_ready == 1")
            assert query(address, "lungseg_connections > 0")


def test_connections_and_what_is_not_http_are_counted(tiny_artifact: Path) -> None:
    import socket

    with running_server(tiny_artifact, ["--threads", "1", "--header-timeout-s", "0.5"]) as server:
        url = f"http://127.0.0.1:{server.port}/metrics"
        open_ones = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(5)]
        open_ones[0].sendall(b"\x16\x03\x01 TLS to a port without it\r\n\r\n")
        until(lambda: "lungseg_unparsed_requests_total 1.0" in httpx.get(url).text, 10)
        until(
            lambda: (
                'lungseg_connections_closed_total{reason="header_timeout"} 4.0'
                in httpx.get(url).text
            ),
            10,
        )
        for one in open_ones:
            one.close()
        time.sleep(0.2)
        text = httpx.get(url).text
    figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
    assert float(figures["lungseg_connections"]) == 1  # this scrape
    assert 16 <= float(figures["lungseg_connections_limit"]) <= 1024
    assert figures['lungseg_requests_total{code="400",route="unmatched"}'] == "1.0"


def test_the_rules_for_the_prometheus_operator_are_the_same() -> None:
    made = subprocess.run(
        [str(KUBERNETES / "monitoring.sh")], capture_output=True, text=True, check=True
    ).stdout
    assert made == (KUBERNETES / "monitoring.yaml").read_text()
    monitor, rules = yaml.safe_load_all(made)
    assert rules["spec"] == yaml.safe_load((FOLDER / "rules.yml").read_text())
    service = yaml.safe_load((KUBERNETES / "base/service.yaml").read_text())
    assert (
        monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    )
    ports = {port["name"] for port in service["spec"]["ports"]}
    assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= ports


@pytest.mark.parametrize("text", ["rules.yml", "node_rules.yml"])
def test_no_rule_assumes_what_the_job_is_called(text: str) -> None:
    assert 'job="' not in (FOLDER / text).read_text()
