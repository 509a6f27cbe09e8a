"""The client: answers, refusals, and a retry that waits as long as the service asks."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.service.server_process import RunningServer, running_server
from service.client import Client, SegmentError
from service.client.proxies import proxy_for
from tests.dicom_files import as_file, make_xray
from tests.service.fake_model import picture, png

ROOT = Path(__file__).parents[2]

GOOD = {"request_id": "r", "masks": [], "warnings": []}


@pytest.fixture(scope="module")
def server(tiny_artifact: Path) -> Iterator[RunningServer]:
    with running_server(tiny_artifact, ["--threads", "1", "--queue-limit", "2"]) as running:
        yield running


def scripted(
    answers: list[httpx.Response | Exception], patience_s: float = 100
) -> tuple[Client, list[float]]:
    """A client whose service gives these answers, and the pauses that it makes."""
    left = iter(answers)
    pauses: list[float] = []

    def handle(request: httpx.Request) -> httpx.Response:
        answer = next(left)
        if isinstance(answer, Exception):
            raise answer
        return answer

    sleep: Callable[[float], None] = pauses.append
    transport = httpx.MockTransport(handle)
    return Client("http://x", transport=transport, sleep=sleep, patience_s=patience_s), pauses


def busy(status: int, retry_after: str) -> httpx.Response:
    return httpx.Response(status, headers={"Retry-After": retry_after}, json={"code": "queue_full"})


def test_a_mask_from_the_real_service(server: RunningServer) -> None:
    boxes = [(0.0, 0.0, 40.5, 40.0), (10.0, 10.0, 90.0, 70.0)]
    with Client(f"http://127.0.0.1:{server.port}") as client:
        found = client.segment(png(picture()), boxes)
        with pytest.raises(SegmentError) as caught:
            client.segment(b"no image")
    assert [mask.box for mask in found.masks] == boxes
    mask = np.asarray(Image.open(io.BytesIO(found.masks[0].png)))
    assert mask.shape == (80, 96) and int((mask > 0).sum()) == found.masks[0].area_px
    assert (caught.value.status, caught.value.code) == (400, "undecodable_image")
    assert caught.value.request_id


def test_overload_is_survived_by_every_caller(server: RunningServer) -> None:
    """Twelve callers, two places: all get their mask in the end."""
    with (
        Client(f"http://127.0.0.1:{server.port}") as client,
        ThreadPoolExecutor(12) as pool,
    ):
        image = png(picture(size=(700, 700)))
        found = list(pool.map(lambda _: client.segment(image), range(36)))
    assert len({one.request_id for one in found}) == 36


def test_it_waits_as_long_as_the_service_asks() -> None:
    client, pauses = scripted([busy(429, "7"), busy(503, "3"), httpx.Response(200, json=GOOD)])
    assert client.segment(b"x").request_id == "r"
    assert 7 <= pauses[0] <= 8.75 and 3 <= pauses[1] <= 3.75


def test_a_broken_connection_is_tried_again_and_patience_ends() -> None:
    client, pauses = scripted([httpx.ReadError("x"), httpx.Response(200, json=GOOD)])
    assert client.segment(b"x").masks == () and len(pauses) == 1
    client, pauses = scripted([busy(429, "20")], patience_s=10)
    with pytest.raises(SegmentError) as caught:
        client.segment(b"x")
    assert (caught.value.status, caught.value.code, pauses) == (429, "queue_full", [])
    client, _ = scripted([httpx.ConnectError("x")], patience_s=0.1)
    with pytest.raises(SegmentError, match="reached"):
        client.segment(b"x")


def test_what_cannot_get_better_is_not_sent_again() -> None:
    answers: list[httpx.Response | Exception] = [httpx.Response(422, json={"code": "invalid_box"})]
    client, pauses = scripted(answers)
    with pytest.raises(SegmentError):
        client.segment(b"x")
    assert pauses == []


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, html="<html>Log in</html>"),
        httpx.Response(200, json={}),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={**GOOD, "masks": [{}]}),
        httpx.Response(200, json={**GOOD, "masks": None}),
        httpx.Response(200, json={**GOOD, "overlay_png": "not base64!"}),
    ],
)
def test_what_is_no_answer_of_the_service_is_said(answer: httpx.Response) -> None:
    client, _ = scripted([answer])
    with pytest.raises(SegmentError, match="is not the segmentation service") as caught:
        client.segment(b"x")
    assert (caught.value.status, caught.value.code) == (200, "unexpected_answer")


@pytest.mark.parametrize("body", ['"go away"', "[1]", "null", "<html>", ""])
def test_a_refusal_by_something_else_keeps_its_status(body: str) -> None:
    client, _ = scripted([httpx.Response(403, text=body)])
    with pytest.raises(SegmentError, match="answered 403") as caught:
        client.segment(b"x")
    assert (caught.value.status, caught.value.code) == (403, "unknown")


def sent_by(**arguments: Any) -> str:
    """The form of one request."""
    bodies: list[bytes] = []

    def handle(request: httpx.Request) -> httpx.Response:
        bodies.append(request.read())
        return httpx.Response(200, json=GOOD)

    with Client("http://x", transport=httpx.MockTransport(handle)) as client:
        client.segment(b"x", **arguments)
    return bodies[0].decode("latin-1")


@given(
    st.floats(1e-9, 1, exclude_max=True),
    st.lists(st.floats(0, 1e5), min_size=4, max_size=4),
)
def test_no_number_is_rounded_on_the_way(threshold: float, box: list[float]) -> None:
    form = sent_by(boxes=[tuple(box)], threshold=threshold)
    values = re.findall(r'name="(threshold|bbox)"\r\n\r\n([^\r]*)', form)
    sent = {name: [float(number) for number in text.split(",")] for name, text in values}
    assert sent == {"threshold": [threshold], "bbox": box}
    assert not any("e" in text.lower() for _, text in values)  # the service reads no exponents


def test_one_of_several_models_is_asked_by_its_name(server: RunningServer) -> None:
    assert 'name="model"' not in sent_by()
    assert 'name="model"\r\n\r\nlungs/7\r\n' in sent_by(model="lungs/7")
    with Client(f"http://127.0.0.1:{server.port}") as client:
        client.segment(png(picture()), model="tiny/1")
        with pytest.raises(SegmentError) as refused:
            client.segment_dicom(as_file(make_xray()), model="tiny/9")
    assert (refused.value.status, refused.value.code) == (422, "unknown_model")


def test_further_fields_and_new_ones_of_the_answer(server: RunningServer) -> None:
    assert 'name="lungs"\r\n\r\neach\r\n' in sent_by(fields={"lungs": "each"})
    with Client(f"http://127.0.0.1:{server.port}") as client:
        found = client.segment(png(picture()), overlay=True)
        smaller = client.segment(png(picture()), overlay="jpeg")
    assert found.overlay is not None and found.overlay.startswith(b"\x89PNG")
    assert smaller.overlay is not None and smaller.overlay.startswith(b"\xff\xd8\xff")
    assert found.masks[0].fields["area_fraction"] == found.masks[0].area_px / (96 * 80)
    assert found.warning_codes == tuple(one["code"] for one in found.body["warnings"])


def test_a_mask_without_its_picture(server: RunningServer) -> None:
    with Client(f"http://127.0.0.1:{server.port}") as client:
        (mask,) = client.segment(png(picture()), fields={"shapes": "polygon"}).masks
    assert mask.png == b"" and mask.fields["polygon"]


def test_a_dicom_segmentation(server: RunningServer) -> None:
    with Client(f"http://127.0.0.1:{server.port}") as client:
        assert client.segment_dicom(as_file(make_xray()))[128:132] == b"DICM"
        with pytest.raises(SegmentError) as caught:
            client.segment_dicom(png(picture()))
    assert (caught.value.status, caught.value.code) == (406, "not_acceptable")
    client, _ = scripted([httpx.Response(200, json=GOOD)])
    with pytest.raises(SegmentError, match="is not the segmentation service"):
        client.segment_dicom(b"x")


PROXY = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("no_proxy", "address", "proxy"),
    [
        ("", "http://10.1.2.3:8000", PROXY),
        ("", "https://lungseg.example", PROXY),
        ("", "http://127.0.0.1:8000", None),
        ("", "http://localhost:8000", None),
        ("", "http://[::1]:8000", None),
        ("10.0.0.0/8", "http://10.1.2.3:8000", None),
        ("::1,[fd00::]/8,fd00::/8", "http://[fd00::7]:8000", None),
        ("lungseg.example", "https://lungseg.example:8443", None),
        (".example", "https://lungseg.example", None),
        ("*", "https://lungseg.example", None),
        ("other.example, :::", "https://lungseg.example", PROXY),
    ],
)
def test_proxies_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, no_proxy: str, address: str, proxy: str | None
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("http_proxy", PROXY)
    monkeypatch.setenv("https_proxy", PROXY)
    monkeypatch.setenv("no_proxy", no_proxy)
    assert proxy_for(address) == proxy
    Client(address).close()  # httpx itself raises at some of these forms


def test_it_installs_alone_with_httpx(tmp_path: Path) -> None:
    """From its own folder, as a program that holds no model installs it."""
    source = tmp_path / "source"
    shutil.copytree(
        ROOT / "service" / "client", source, ignore=shutil.ignore_patterns("__pycache__")
    )
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    subprocess.run([*command, str(tmp_path / "site"), str(source)], check=True)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import lungseg_client; "
        "print(lungseg_client.Client.__module__, 'service' in sys.modules, 'numpy' in sys.modules)"
    )
    command = [sys.executable, "-I", "-c", code, str(tmp_path / "site")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split() == ["lungseg_client.client", "False", "False"]
