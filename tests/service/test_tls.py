"""HTTPS with a real certificate that signs itself, and certificates that cannot be used."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from benchmarks.service.server_process import running_server
from service.client import Client, SegmentError
from tests.service.fake_model import form, picture, png
from tests.service.test_process import assert_one_sentence, start


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`cert.pem` and `key.pem` for 127.0.0.1, and `locked.pem`, the key under a passphrase."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: TLS was NOT tested")
    made = tmp_path_factory.mktemp("tls")
    for command in (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=lungseg "
        "-addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem",
        "ec -in key.pem -aes256 -passout pass:secret -out locked.pem",
        "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out other.pem",
    ):
        subprocess.run(["openssl", *command.split()], cwd=made, check=True, capture_output=True)
    return made


def test_https_is_served_and_plain_http_is_not(tiny_artifact: Path, folder: Path) -> None:
    flags = ["--threads", "1", "--tls-cert", f"{folder}/cert.pem", "--tls-key", f"{folder}/key.pem"]
    trusted = ssl.create_default_context(cafile=folder / "cert.pem")
    with running_server(tiny_artifact, flags, trusted) as server:
        with httpx.Client(base_url=f"https://127.0.0.1:{server.port}", verify=trusted) as client:
            assert client.post("/segment", **form()).status_code == 200
            assert client.get("/readyz").status_code == 200
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{server.port}/livez")
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"https://127.0.0.1:{server.port}/livez")
        old = ssl.create_default_context(cafile=folder / "cert.pem")
        with pytest.deprecated_call():  # which is why the service refuses them
            old.minimum_version = ssl.TLSVersion.TLSv1
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"https://127.0.0.1:{server.port}/livez", verify=old)
        assert server.segment(png(picture()), {}).status == 200
        with Client(f"https://127.0.0.1:{server.port}", trusted=trusted) as client:
            assert client.segment(png(picture())).masks[0].box == (0, 0, 96, 80)
        with (
            Client(f"https://127.0.0.1:{server.port}", patience_s=0) as client,
            pytest.raises(SegmentError, match="reached"),
        ):
            client.segment(png(picture()))
        own = {
            "LUNGSEG_PORT": str(server.port),
            "LUNGSEG_TLS_CERT": f"{folder}/cert.pem",
            "LUNGSEG_TLS_KEY": f"{folder}/key.pem",
        }
        check = [sys.executable, "-m", "service.healthcheck"]
        assert subprocess.run(check, env=os.environ | own, check=False).returncode == 0


@pytest.mark.parametrize(
    ("key", "said"),
    [("other.pem", "mismatch"), ("locked.pem", "key"), ("absent.pem", "no such file")],
)
def test_a_pair_that_cannot_be_used_ends_with_2(key: str, said: str, folder: Path) -> None:
    done = start("--port", "0", "--tls-cert", f"{folder}/cert.pem", "--tls-key", f"{folder}/{key}")
    assert_one_sentence(done, 2, said)


def test_a_certificate_without_its_key_ends_with_2(folder: Path) -> None:
    assert_one_sentence(start("--tls-cert", f"{folder}/cert.pem"), 2, "--tls-key")
