"""`examples/viewer.html`, a page of another origin, in a real browser: it posts and draws."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from benchmarks.service.server_process import RunningServer, running_server
from tests.service.live_service import url
from training.phantom import draw_phantom

EXAMPLES = Path(__file__).parents[2] / "examples"
WAIT_S = 60
COUNT_COLOURS = """
const canvas = document.getElementById("masks");
const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
let [right, left] = [0, 0];
for (let at = 0; at < data.length; at += 4) {
  if (data[at + 3] > 0) { if (data[at] > data[at + 2]) right += 1; else left += 1; }
}
return [canvas.width, canvas.height, right, left];
"""


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def viewer_port() -> Iterator[int]:
    """A web server with the example pages."""
    handler = functools.partial(QuietHandler, directory=str(EXAMPLES))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as pages:
        threading.Thread(target=pages.serve_forever, daemon=True).start()
        yield pages.server_port
        pages.shutdown()


@pytest.fixture(scope="module")
def server(viewer_port: int) -> Iterator[RunningServer]:
    flags = ["--threads", "1", "--cors-origins", f"http://127.0.0.1:{viewer_port}"]
    with running_server(None, flags) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium or no chromedriver: the example page was NOT tried in a browser")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "window-size=1200,900"):
        options.add_argument(f"--{flag}")
    started = webdriver.Chrome(options=options, service=Service(driver))
    yield started
    started.quit()


def segment(browser: webdriver.Chrome, page: str, server: RunningServer, xray: Path) -> str:
    """Opens the page, sends a file, returns what the page says in the end."""
    browser.get(page)
    address = browser.find_element("id", "service")
    address.clear()
    address.send_keys(url(server, ""))
    browser.find_element("id", "file").send_keys(str(xray))
    browser.find_element("tag name", "button").click()
    status = browser.find_element("id", "status")
    WebDriverWait(browser, WAIT_S, poll_frequency=0.05).until(
        lambda _: status.get_attribute("class") in ("done", "error")
    )
    return f"{status.get_attribute('class')}: {status.text}"


def test_a_listed_viewer_draws_the_masks_of_the_answer(
    browser: webdriver.Chrome, viewer_port: int, server: RunningServer, tmp_path: Path
) -> None:
    xray = tmp_path / "phantom.png"
    Image.fromarray(draw_phantom(3, (480, 512)).image).save(xray)
    said = segment(browser, f"http://127.0.0.1:{viewer_port}/viewer.html", server, xray)
    assert said.startswith("done: cxr-lung-tiny ")
    files = {"image": xray.read_bytes()}
    answer = httpx.post(
        url(server, "/segment"), files=files, data={"lungs": "each"}, timeout=WAIT_S
    )
    area = {one["structure"]: one["area_px"] for one in answer.json()["masks"]}
    width, height, right, left = browser.execute_script(COUNT_COLOURS)
    assert (width, height) == (512, 480)
    assert (right, left) == (area["right_lung"], area["left_lung"]) and min(right, left) > 1000


def test_it_shows_the_services_own_words(
    browser: webdriver.Chrome, viewer_port: int, server: RunningServer, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(np.arange(100, dtype=np.uint8).tobytes())
    page = f"http://127.0.0.1:{viewer_port}/viewer.html"
    said = segment(browser, page, server, tmp_path / "a.png")
    assert said.startswith("error: undecodable_image: ")


def test_from_an_origin_that_is_not_listed_it_says_what_to_do(
    browser: webdriver.Chrome, viewer_port: int, server: RunningServer
) -> None:
    page = f"http://localhost:{viewer_port}/viewer.html"
    said = segment(browser, page, server, EXAMPLES / "phantom.png")
    assert said.startswith("error: ")
    assert f"Is http://localhost:{viewer_port} in --cors-origins?" in said
