"""Each lung over HTTP: sides, order, islands, measurements and DICOM segments."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.imaging.packed_masks import KEPT_WHOLE_PX
from tests.dicom_files import as_file, make_xray
from tests.service.fake_model import form, make_app, running
from tests.service.lung_masks import lung_mask

pytestmark = pytest.mark.anyio

SIDE = 96  # the fake model's input: grey values are its probabilities, pixel by pixel


def bright_lungs() -> NDArray[np.uint8]:
    return np.where(lung_mask(SIDE), 255, 0).astype(np.uint8)


def mask_of(entry: dict[str, object]) -> NDArray[np.bool_]:
    with Image.open(io.BytesIO(base64.b64decode(str(entry["png"])))) as image:
        return np.asarray(image) > 0


async def test_a_plain_request_has_one_mask_of_both_lungs() -> None:
    async with running(make_app()) as client:
        answer = (await client.post("/segment", **form(bright_lungs()))).json()
    (mask,) = answer["masks"]
    assert (mask["structure"], mask["side"], mask["box_index"]) == ("lungs", None, 0)
    assert answer["measurements"] is None


async def test_each_lung_has_a_mask_right_before_left_by_box() -> None:
    pixels = bright_lungs()
    async with running(make_app()) as client:
        boxes = ["0,0,96,96", "1,1,95,95"]
        sent = form(pixels, bbox=boxes, lungs="each")
        answer = (await client.post("/segment", **sent)).json()
    masks = answer["masks"]
    assert [(one["box_index"], one["structure"], one["side"]) for one in masks] == [
        (0, "right_lung", "right"),
        (0, "left_lung", "left"),
        (1, "right_lung", "right"),
        (1, "left_lung", "left"),
    ]
    right, left = mask_of(masks[0]), mask_of(masks[1])
    assert np.array_equal(right | left, pixels > 127)
    assert not right[:, SIDE // 2 :].any() and not left[:, : SIDE // 2].any()
    assert all(one["confidence"] > 0.9 for one in masks)


@pytest.mark.parametrize(
    "fields",
    [
        {"bbox": ["0,0,96,96", "1,1,95,95"], "lungs": "each", "measurements": "true"},
        {"bbox": ["0,0,96,96", "10,10,50,60"], "clip": "true", "islands": "drop"},
        {"lungs": "left", "view": "overlay", "legend": "true"},
    ],
)
async def test_masks_that_wait_as_bits_give_the_same_answer(
    fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = []
    async with running(make_app()) as client:
        for kept_px in (KEPT_WHOLE_PX, 0):
            monkeypatch.setattr("service.imaging.answering.KEPT_WHOLE_PX", kept_px)
            answer = (await client.post("/segment", **form(bright_lungs(), **fields))).json()
            assert answer["masks"]
            del answer["request_id"], answer["latency_ms"]
            answers.append(answer)
    assert answers[0] == answers[1]


@pytest.mark.parametrize("side", ["right", "left"])
async def test_one_lung_as_png(side: str) -> None:
    async with running(make_app()) as client:
        accept = {"Accept": "image/png"}
        sent = form(bright_lungs(), lungs=side)
        response = await client.post("/segment", **sent, headers=accept)
        both = await client.post("/segment", **form(bright_lungs(), lungs="each"), headers=accept)
    assert response.headers["x-lungseg-structure"] == f"{side}_lung"
    with Image.open(io.BytesIO(response.content)) as image:
        mask = np.asarray(image) > 0
    empty = slice(SIDE // 2, None) if side == "right" else slice(0, SIDE // 2)
    assert mask.any() and not mask[:, empty].any()
    assert both.status_code == 406


async def test_islands_go_and_are_said_and_warnings_judge_the_raw_mask() -> None:
    pixels = bright_lungs()
    pixels[2:5, 2:5] = 255
    async with running(make_app()) as client:
        kept = (await client.post("/segment", **form(pixels))).json()
        dropped = (await client.post("/segment", **form(pixels, islands="drop"))).json()
    assert mask_of(kept["masks"][0])[3, 3]
    assert not mask_of(dropped["masks"][0])[3, 3]
    assert dropped["masks"][0]["area_px"] == kept["masks"][0]["area_px"] - 9
    codes = [[one["code"] for one in answer["warnings"]] for answer in (kept, dropped)]
    assert codes[1] == [*codes[0], "islands_removed"]
    (said,) = [one for one in dropped["warnings"] if one["code"] == "islands_removed"]
    assert "9 pixels" in said["message"] and said["severity"] == "info"


async def test_sides_that_cannot_be_told_are_said() -> None:
    pixels = np.zeros((SIDE, SIDE), np.uint8)
    pixels[30:60, 30:66] = 255
    async with running(make_app()) as client:
        answer = (await client.post("/segment", **form(pixels, lungs="each"))).json()
    (mask,) = answer["masks"]
    assert (mask["structure"], mask["side"]) == ("lungs", None)
    assert "sides_unknown" in [one["code"] for one in answer["warnings"]]


async def test_measurements_on_request() -> None:
    async with running(make_app()) as client:
        sent = form(bright_lungs(), measurements="true")
        answer = (await client.post("/segment", **sent)).json()
    (found,) = answer["measurements"]
    assert found["lungs"]["area_px"] == answer["masks"][0]["area_px"]
    assert (
        found["right_lung"]["area_px"] + found["left_lung"]["area_px"]
        == (found["lungs"]["area_px"])
    )
    assert found["spacing"] is found["lungs"]["area_mm2"] is None


@pytest.mark.parametrize("bad", [{"lungs": "both lungs"}, {"islands": "no"}, {"measurements": "2"}])
async def test_other_words_are_refused(bad: dict[str, Any]) -> None:
    async with running(make_app()) as client:
        response = await client.post("/segment", **form(**bad))
    assert (response.status_code, response.json()["code"]) == (422, "invalid_field")


def dicom(mirrored: bool = False) -> bytes:
    pixels = bright_lungs()
    xray = make_xray(pixels[:, ::-1].copy() if mirrored else pixels, bits_stored=8)
    xray.PatientOrientation = ["R" if mirrored else "L", "F"]
    xray.ImagerPixelSpacing = ["0.5", "0.5"]
    return as_file(xray)


async def test_each_lung_is_a_coded_segment_and_measured_in_the_report() -> None:
    accept = {"Accept": "application/dicom"}
    async with running(make_app()) as client:
        sent: dict[str, Any] = {"files": {"image": ("x.dcm", dicom())}, "data": {"lungs": "each"}}
        response = await client.post("/segment", **sent, headers=accept)
        sent["data"]["measurements"] = "true"
        answer = (await client.post("/segment", **sent)).json()
    assert response.status_code == 200, response.text
    seg = pydicom.dcmread(io.BytesIO(response.content))
    kinds = [one.SegmentedPropertyTypeCodeSequence[0] for one in seg.SegmentSequence]
    sides = [one.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning for one in kinds]
    assert sides == ["Right", "Left"]
    right = np.asarray(seg.pixel_array)[0] > 0
    assert right.any() and not right[:, SIDE // 2 :].any()
    (found,) = answer["measurements"]
    assert found["spacing"]["source"] == "ImagerPixelSpacing"
    assert found["lungs"]["area_mm2"] == pytest.approx(found["lungs"]["area_px"] * 0.25)


async def test_a_mirrored_dicom_image_keeps_the_patients_sides() -> None:
    sent: dict[str, Any] = {
        "files": {"image": ("x.dcm", dicom(mirrored=True))},
        "data": {"lungs": "right"},
    }
    async with running(make_app()) as client:
        answer = (await client.post("/segment", **sent)).json()
    right = mask_of(answer["masks"][0])
    assert right.any() and not right[:, : SIDE // 2].any()


async def test_clipping_gives_the_part_of_the_lungs_in_each_box() -> None:
    """The whole image is asked about once, and the warnings are those of the whole."""
    pixels = bright_lungs()
    boxes = ["0,0,96,48", "0,48,96,96", "0,0,48,96"]
    async with running(make_app()) as client:
        sent = form(pixels, bbox=boxes, clip="true")
        answer = (await client.post("/segment", **sent)).json()
        whole = (await client.post("/segment", **form(pixels))).json()
        each = form(pixels, bbox=boxes[:1], clip="true", lungs="each")
        lungs = (await client.post("/segment", **each)).json()
        outside = await client.post("/segment", **form(pixels, bbox="0,0,97,9", clip="true"))
    upper, lower, left = (mask_of(one) for one in answer["masks"])
    assert np.array_equal(upper | lower, pixels > 127)
    assert not upper[48:].any() and not lower[:48].any() and not left[:, 48:].any()
    assert [one["box_index"] for one in answer["masks"]] == [0, 1, 2]
    assert [one["bbox"] for one in answer["masks"]][1] == [0, 48, 96, 96]
    assert answer["warnings"] == whole["warnings"]
    assert np.array_equal(mask_of(lungs["masks"][0]) | mask_of(lungs["masks"][1]), upper)
    assert (outside.status_code, outside.json()["code"]) == (422, "invalid_box")


async def test_a_clip_that_holds_no_lung_is_empty() -> None:
    async with running(make_app()) as client:
        sent = form(bright_lungs(), bbox="0,0,5,5", clip="true")
        (mask,) = (await client.post("/segment", **sent)).json()["masks"]
    assert (mask["area_px"], mask["score"], mask["confidence"]) == (0, 0.0, 0.0)
