"""The page at `/` in a real browser: an X-ray in, a box drawn, a mask over it, files out.

Needs Debian's packages chromium and chromium-driver and is skipped, loudly, where they are not.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from benchmarks.service.server_process import RunningServer, running_server
from model_store.model_index import default_model
from tests.dicom_files import as_file, make_xray
from training.phantom import draw_phantom

PAGE = Path(__file__).parents[2] / "service" / "http" / "page"
WAIT_S = 60
DESKTOP, PHONE = (1400, 900), (390, 844)


def test_nothing_comes_from_elsewhere_and_no_script_or_style_is_inline() -> None:
    files = sorted(PAGE.iterdir())
    assert {file.suffix for file in files} == {".html", ".css", ".js", ".svg"}
    for file in files:
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(https?:)?//[a-z0-9-]+\.", text), file.name
    html = (PAGE / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son[a-z]+=|\sstyle=", html)
    storage = "localStorage|sessionStorage|document.cookie|indexedDB"
    assert not any(re.search(storage, file.read_text("utf-8")) for file in PAGE.glob("*.js"))


def test_every_field_has_a_label_and_every_id_is_there() -> None:
    html = (PAGE / "index.html").read_text(encoding="utf-8")
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    scripts = "".join(file.read_text(encoding="utf-8") for file in PAGE.glob("*.js"))
    asked = set(re.findall(r'find\("([^"]+)"\)', scripts))
    assert asked <= set(ids)


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running_server(None, ["--threads", "1"]) as running:
        yield running


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the browser puts what it downloads."""
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module", params=[DESKTOP, PHONE], ids=["desktop", "phone"])
def browser(request: pytest.FixtureRequest, downloads: Path) -> Iterator[webdriver.Chrome]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium or no chromedriver: the page was NOT tried in a browser")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    width, height = request.param
    for flag in ("headless=new", "no-sandbox", "disable-gpu", f"window-size={width},{height}"):
        options.add_argument(f"--{flag}")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    yield started
    started.quit()


@pytest.fixture
def page(browser: webdriver.Chrome, server: RunningServer) -> Iterator[webdriver.Chrome]:
    browser.get(f"http://127.0.0.1:{server.port}/")
    yield browser
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("xray") / "phantom.png"
    Image.fromarray(draw_phantom(3, (480, 512)).image).save(path)
    return path


def until(page: webdriver.Chrome, condition: Callable[[webdriver.Chrome], Any]) -> Any:
    return WebDriverWait(page, WAIT_S, poll_frequency=0.05).until(condition)


def find(page: webdriver.Chrome, name: str) -> Any:
    return page.find_element(By.ID, name)


def open_file(page: webdriver.Chrome, path: Path) -> None:
    find(page, "file").send_keys(str(path))
    until(page, lambda p: find(p, "go").is_enabled() or has_refusal(p))


def has_refusal(page: webdriver.Chrome) -> bool:
    return "error" in (find(page, "status").get_attribute("class") or "")


def segment(page: webdriver.Chrome) -> None:
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", find(page, "go"))
    find(page, "go").click()
    until(page, lambda p: find(p, "answer").is_displayed() and find(p, "go").is_enabled())


def painted(page: webdriver.Chrome, canvas: str) -> np.ndarray:
    """Alpha of a canvas as the browser holds it, (H, W)."""
    script = (
        "const c = document.getElementById(arguments[0]);"
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "return [c.height, c.width, Array.from(d.filter((_, i) => i % 4 === 3))];"
    )
    height, width, alpha = page.execute_script(script, canvas)
    return np.array(alpha, np.uint8).reshape(height, width)


def test_it_names_the_model_and_says_what_it_is_not(page: webdriver.Chrome) -> None:
    name, version = default_model().label.split("/")
    until(page, lambda p: f"{name} {version}" in find(p, "model").text)
    assert default_model().sha256[:12] in find(page, "model").text
    assert "Not a medical device" in page.find_element(By.CSS_SELECTOR, ".notice").text
    assert not find(page, "go").is_enabled()


def test_the_mask_on_the_screen_is_the_mask_of_the_answer(
    page: webdriver.Chrome, server: RunningServer, phantom: Path
) -> None:
    open_file(page, phantom)
    assert "512 × 480 pixels, png" in find(page, "status").text
    segment(page)
    address = f"http://127.0.0.1:{server.port}/segment"
    files = {"image": phantom.read_bytes()}
    answer = httpx.post(address, files=files, data={"lungs": "each"}, timeout=WAIT_S).json()
    right, left = answer["masks"]
    area_px = right["area_px"] + left["area_px"]
    assert int((painted(page, "tint") > 0).sum()) == area_px
    outline = painted(page, "line") > 0
    assert 0 < outline.sum() < 0.1 * area_px
    cells = [cell.text for cell in page.find_elements(By.CSS_SELECTOR, "#masks tbody td")]
    assert cells[::4] == ["right lung", "left lung"]
    assert cells[2::4] == [f"{right['area_px']:,}", f"{left['area_px']:,}"]
    shown = [one.text for one in page.find_elements(By.CSS_SELECTOR, "#warnings code")]
    assert shown == [warning["code"] for warning in answer["warnings"]]
    assert "encode_image" in find(page, "latency").get_attribute("aria-label")


def test_the_heart_and_the_ratio_are_shown_on_request(
    page: webdriver.Chrome, server: RunningServer, phantom: Path
) -> None:
    open_file(page, phantom)
    segment(page)
    assert not find(page, "ratio").is_displayed()
    find(page, "heart").click()
    segment(page)
    address = f"http://127.0.0.1:{server.port}/segment"
    fields = {"structure": "lungs,heart", "measurements": "cardiothoracic", "lungs": "each"}
    files = {"image": phantom.read_bytes()}
    answer = httpx.post(address, files=files, data=fields, timeout=WAIT_S).json()
    ratio = answer["measurements"][0]["cardiothoracic"]["ratio"]
    assert find(page, "ratio").text.startswith(f"Cardiothoracic ratio {ratio:.2f}")
    cells = [cell.text for cell in page.find_elements(By.CSS_SELECTOR, "#masks tbody td")]
    assert cells[::4] == ["right lung", "left lung", "heart"]
    assert int((painted(page, "tint") > 0).sum()) > sum(
        one["area_px"] for one in answer["masks"][:2]
    )


def test_a_box_is_drawn_by_pointer_moved_by_keys_and_sent(
    page: webdriver.Chrome, phantom: Path
) -> None:
    open_file(page, phantom)
    grey = find(page, "grey")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", grey)
    size = grey.size
    start = (-0.4 * size["width"], -0.4 * size["height"])
    drag = ActionChains(page).move_to_element_with_offset(grey, *map(round, start)).click_and_hold()
    drag.move_by_offset(round(0.4 * size["width"]), round(0.8 * size["height"])).release().perform()
    box = [float(find(page, name).get_attribute("value")) for name in ("x0", "y0", "x1", "y1")]
    assert box == pytest.approx([51, 48, 256, 432], abs=4)
    find(page, "box").send_keys(Keys.ARROW_RIGHT)
    find(page, "box").send_keys(Keys.SHIFT, Keys.ARROW_DOWN)
    moved = [float(find(page, name).get_attribute("value")) for name in ("x0", "y0", "x1", "y1")]
    assert moved == [box[0] + 5, box[1], box[2] + 5, box[3] + 5]
    segment(page)
    inside = painted(page, "tint") > 0
    assert inside.any()
    assert inside[:, int(box[2]) + 60 :].sum() < 0.05 * inside.sum()  # that lung alone
    find(page, "box").send_keys(Keys.DELETE)
    assert not find(page, "box").is_displayed()
    assert find(page, "x0").get_attribute("value") == ""


def test_a_typed_box_that_is_none_gets_the_services_own_sentence(
    page: webdriver.Chrome, phantom: Path
) -> None:
    open_file(page, phantom)
    for name, text in zip(("x0", "y0", "x1", "y1"), ("300", "10", "200", "400"), strict=True):
        find(page, name).send_keys(text)
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", find(page, "go"))
    find(page, "go").click()
    until(page, has_refusal)
    assert "box" in find(page, "status").text
    logged = page.get_log("browser")  # a 422 is a line in the browser's console
    assert all("422" in entry["message"] for entry in logged)


def test_files_come_out_and_dicom_gets_its_segmentation(
    page: webdriver.Chrome, downloads: Path, tmp_path: Path
) -> None:
    path = tmp_path / "xray.dcm"
    path.write_bytes(as_file(make_xray(draw_phantom(3, (256, 256)).image, bits_stored=8)))
    open_file(page, path)
    segment(page)
    masks = {"xray_right_lung.png", "xray_left_lung.png"}
    wanted = masks | {"xray_overlay.png", "xray.json", "xray_seg.dcm"}
    for old in downloads.iterdir():
        old.unlink()
    for button in page.find_elements(By.CSS_SELECTOR, ".downloads button"):
        page.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
        button.click()
        time.sleep(0.2)
    until(page, lambda _: wanted <= {one.name for one in downloads.iterdir()})
    answer = json.loads((downloads / "xray.json").read_text())
    with Image.open(downloads / "xray_right_lung.png") as mask:
        assert int((np.asarray(mask) > 0).sum()) == answer["masks"][0]["area_px"]
    with Image.open(downloads / "xray_overlay.png") as overlay:
        assert overlay.size == (256, 256)
    assert (downloads / "xray_seg.dcm").read_bytes()[128:132] == b"DICM"


def test_what_is_no_picture_is_refused_in_words(page: webdriver.Chrome, tmp_path: Path) -> None:
    path = tmp_path / "letter.pdf"
    path.write_bytes(b"%PDF-1.7" + bytes(500))
    open_file(page, path)
    assert "PDF" in find(page, "status").text
    assert not find(page, "go").is_enabled()
    page.get_log("browser")  # a 415 is a line in the browser's console


def test_the_window_is_dragged_and_reset(page: webdriver.Chrome, phantom: Path) -> None:
    open_file(page, phantom)
    before = find(page, "width").get_attribute("value")
    page.find_element(By.CSS_SELECTOR, "input[name=tool][value=window]").click()
    grey = find(page, "grey")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", grey)
    drag = ActionChains(page).move_to_element(grey).click_and_hold()
    drag.move_by_offset(-60, 0).release().perform()
    narrowed = find(page, "width").get_attribute("value")
    assert float(narrowed) < float(before)
    assert not find(page, "box").is_displayed()
    find(page, "reset-window").click()
    assert find(page, "width").get_attribute("value") == before


def test_the_page_fits_its_window(page: webdriver.Chrome, phantom: Path) -> None:
    open_file(page, phantom)
    overflow = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.execute_script(overflow) <= 0
    grey, stage = find(page, "grey").rect, find(page, "stage").rect
    assert grey["width"] <= stage["width"] and grey["height"] <= stage["height"] + 1
    assert grey["width"] / grey["height"] == pytest.approx(512 / 480, rel=0.01)


def test_of_several_models_the_chosen_one_is_asked(
    browser: webdriver.Chrome, phantom: Path, tiny_artifact: Path
) -> None:
    first = default_model().label
    with running_server(None, ["--threads", "1", "--further-models", str(tiny_artifact)]) as server:
        browser.get(f"http://127.0.0.1:{server.port}/")
        until(browser, lambda p: find(p, "which").is_displayed())
        options = find(browser, "which").find_elements(By.TAG_NAME, "option")
        assert [one.text for one in options] == [first, "tiny/1"]
        assert find(browser, "heart-row").is_displayed()
        options[1].click()
        until(browser, lambda p: find(p, "model").text.startswith("tiny 1"))
        assert not find(browser, "heart-row").is_displayed()  # it knows no heart
        open_file(browser, phantom)
        segment(browser)
        text = httpx.get(f"http://127.0.0.1:{server.port}/metrics").text
        browser.get("about:blank")
    counted = re.findall(r"^lungseg_model_requests_total{(.*)} (.*)$", text, re.MULTILINE)
    assert counted == [('code="200",name="tiny",version="1"', "1.0")]


def test_one_model_is_not_offered_as_a_choice(page: webdriver.Chrome) -> None:
    until(page, lambda p: "·" in find(p, "model").text)
    time.sleep(0.5)
    assert not find(page, "which").is_displayed()
