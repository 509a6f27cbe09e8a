"""Web pages of others neither post to a service without keys nor read it by a rebinding name."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from benchmarks.service.server_process import RunningServer, running_server
from service.http.browsers import AllowedHosts, BrowserGuard
from service.http.request_middleware import RequestMiddleware
from service.metrics import Metrics
from service.settings import SettingsError, settings_from
from tests.service.fake_model import form, make_app, running
from tests.service.node_peers import free_port, until
from tests.service.test_keys import write_keys
from tests.service.test_prometheus import FOLDER, program, query, wait_for

pytestmark = pytest.mark.anyio
EVIL = "https://evil.example"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": EVIL},
        {"Origin": "null"},
        {"Origin": "http://localhost:9999"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": EVIL, "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost"},
        {"Origin": "http://[broken"},
    ],
)
async def test_a_page_from_elsewhere_cannot_post(headers: dict[str, str]) -> None:
    async with running(make_app()) as client:
        for path in ("/segment", "/v1/segment", "/preview", "/absent"):
            refused = await client.post(path, **form(), headers=headers)
            assert (refused.status_code, refused.json()["code"]) == (403, "foreign_origin"), path
            assert refused.headers["x-request-id"]
        assert (await client.delete("/segment", headers=headers)).status_code == 403
        assert (await client.get("/", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://localhost"},
        {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "https://localhost:8443", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "http://localhost:80"},
        {"Origin": "https://localhost"},  # a proxy that ends TLS
    ],
)
async def test_our_own_page_and_programs_may_post(headers: dict[str, str]) -> None:
    async with running(make_app()) as client:
        assert (await client.post("/segment", **form(), headers=headers)).status_code == 200


async def test_a_rebinding_name_reads_nothing() -> None:
    async with running(make_app()) as client:
        for path in ("/", "/metrics", "/v1/model", "/docs", "/readyz"):
            for host in ("evil.example", "evil.example:8000", "10.0.0.9", "a@localhost", "[::1"):
                refused = await client.get(path, headers={"Host": host})
                assert (refused.status_code, refused.json()["code"]) == (403, "host_not_allowed")
            for host in ("localhost:9", "127.0.0.1:8000", "[::1]:8000", "localhost."):
                assert (await client.get(path, headers={"Host": host})).status_code == 200


async def test_allowed_names_are_called_and_others_still_are_not() -> None:
    app = make_app(allowed_hosts="lungseg, lungs.example")
    async with running(app) as client:
        for host in ("lungseg:8000", "LUNGS.example"):
            assert (await client.get("/livez", headers={"Host": host})).status_code == 200
        assert (await client.get("/livez", headers={"Host": "x.lungs.example"})).status_code == 403


async def test_where_keys_are_asked_for_they_decide(tmp_path: Path) -> None:
    app = make_app(api_keys_file=write_keys(tmp_path / "keys", "good"))
    headers = {"X-API-Key": "good", "Host": "lungs.example", "Origin": "https://viewer.example"}
    async with running(app) as client:
        assert (await client.post("/segment", **form(), headers=headers)).status_code == 200


def test_a_wildcard_address_is_called_by_numbers_or_allowed_names() -> None:
    hosts = AllowedHosts("0.0.0.0", ["lungseg"])
    assert all(map(hosts.allow, ("192.168.0.5:8000", "[fd00::7]:8000", "lungseg:8000", "")))
    assert not hosts.allow("evil.example")
    assert not AllowedHosts("192.168.0.5", []).allow("192.168.0.6")
    assert AllowedHosts("192.168.0.5", []).allow("192.168.0.5:8000")
    assert AllowedHosts("127.0.0.1", ["*"]).allow("anything.example")


@pytest.mark.parametrize("value", ["http://lungseg", "lungseg:8000", "a/b", "*.example", "a b"])
def test_what_is_no_name_is_refused_at_the_start(value: str) -> None:
    with pytest.raises(SettingsError, match=r"^--allowed-hosts is not usable: "):
        settings_from(["--allowed-hosts", value], {})


@pytest.fixture(scope="module")
def server(tiny_artifact: Path) -> Iterator[RunningServer]:
    flags = ["--threads", "1", "--allowed-hosts", "lungs.example"]
    with running_server(tiny_artifact, flags) as made:
        yield made


def test_a_refused_upload_is_read_and_the_connection_serves_on(server: RunningServer) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=20) as client:
        large = {"image": ("a", b"x" * 3_000_000)}
        refused = client.post("/segment", files=large, headers={"Origin": EVIL})
        assert (refused.status_code, refused.json()["code"]) == (403, "foreign_origin")
        assert client.post("/segment", **form()).status_code == 200
        text = client.get("/metrics").text
    assert 'lungseg_requests_total{code="403",route="unmatched"}' in text


NGINX = """
daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  client_max_body_size 64m;
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://127.0.0.1:{service}; proxy_set_header Host $http_host; }}
  }}
  server {{
    listen 127.0.0.1:{plain};
    location / {{ proxy_pass http://127.0.0.1:{service}; }}
  }}
}}
"""


@pytest.fixture(scope="module")
def nginx(
    server: RunningServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[int, int]]:
    """Ports of an nginx that hands the caller's `Host` on, and of one as nginx is by default."""
    folder = tmp_path_factory.mktemp("nginx")
    ports = free_port(), free_port()
    text = NGINX.format(folder=folder, port=ports[0], plain=ports[1], service=server.port)
    (folder / "nginx.conf").write_text(text)
    command = [program("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf")]
    command += ["-e", f"{folder}/error.log"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for port in ports:
            until(lambda port=port: _listens(port), 20)  # type: ignore[misc]
        yield ports
    finally:
        process.terminate()
        process.wait(20)


def _listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def test_behind_nginx_our_page_posts_and_others_do_not(nginx: tuple[int, int]) -> None:
    handed_on, plain = nginx
    own = {"Host": "lungs.example", "Origin": "http://lungs.example"}
    cases = [
        (handed_on, own, 200),
        (handed_on, own | {"Origin": EVIL}, 403),
        (handed_on, {"Host": "evil.example", "Origin": "http://evil.example"}, 403),
        (handed_on, {"Host": "lungs.example"}, 200),
        # By default nginx calls the service by its address: programs are served, whatever name
        # they use; a page's origin cannot be told from a foreign one.
        (plain, {"Host": "lungs.example"}, 200),
        (plain, own, 403),
    ]
    for port, headers, status in cases:
        url = f"http://127.0.0.1:{port}/segment"
        answer = httpx.post(url, **form(), headers=headers, timeout=30)
        assert answer.status_code == status, (headers, answer.text)
    page = httpx.get(f"http://127.0.0.1:{handed_on}/", headers={"Host": "lungs.example"})
    assert page.status_code == 200 and "html" in page.headers["content-type"]


def test_prometheus_scrapes_a_service_that_asks_for_no_key(
    server: RunningServer, tmp_path: Path
) -> None:
    address = f"127.0.0.1:{free_port()}"
    targets = [{"targets": [f"localhost:{server.port}", f"127.0.0.1:{server.port}"]}]
    config = {
        "global": {"scrape_interval": "300ms"},
        "scrape_configs": [{"job_name": "lungseg", "static_configs": targets}],
    }
    (tmp_path / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    command = [
        program("prometheus"), f"--config.file={tmp_path}/prometheus.yml",
        f"--storage.tsdb.path={tmp_path}/data", f"--web.listen-address={address}",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=FOLDER
    )
    try:
        wait_for(address, "count(up == 1) == 2")
        assert not query(address, "up == 0")
    finally:
        process.terminate()
        process.wait(20)


async def test_a_page_of_a_listed_origin_may_post() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await Response("served")(scope, receive, send)

    hosts = AllowedHosts("127.0.0.1", [])
    guard = BrowserGuard(app, hosts, ["https://viewer.example"], idle_timeout_s=1)
    edge = RequestMiddleware(guard, Metrics(queue_limit=1, queue_depth=lambda: 0))
    transport = httpx.ASGITransport(app=edge)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for origin, status in (("https://viewer.example", 200), ("https://viewer.example:1", 403)):
            headers = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
            assert (await client.post("/", headers=headers)).status_code == status
