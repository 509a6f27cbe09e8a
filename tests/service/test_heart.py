"""The heart as a structure of its own, and the cardiothoracic ratio, over HTTP."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image

from model_store.pictures.dicom_view import frontal_projection
from model_store.prediction import MaskPrediction
from service.imaging.heart import check_heart
from tests.dicom_files import as_file, make_xray
from tests.service.fake_model import FakeInfo, FakeManifest, FakePredictor, form, make_app, running
from tests.service.lung_masks import lung_mask

SIDE = 96
HEART_COLUMNS = slice(40, 70)
RATIO_CODES = {"cardiothoracic_ratio_on_ap", "cardiothoracic_view_unknown"}


def chest() -> NDArray[np.uint8]:
    """Bright lungs, and a heart where the fake model looks for it."""
    pixels = np.where(lung_mask(SIDE), 255, 0).astype(np.uint8)
    pixels[60:75, HEART_COLUMNS] = 100
    return pixels


def knowing_hearts() -> FakePredictor:
    return FakePredictor(info=FakeInfo(manifest=FakeManifest(structures={"heart": 2})))


def dicom(**attributes: Any) -> bytes:
    return as_file(make_xray(chest().astype(np.uint16) * 16, **attributes))


async def answer_to(
    predictor: FakePredictor | None = None, data: bytes | None = None, **fields: Any
) -> dict[str, Any]:
    sent = form(chest(), **fields)
    if data is not None:
        sent["files"] = {"image": ("x.dcm", data, "application/dicom")}
    async with running(make_app(predictor or knowing_hearts())) as client:
        found: dict[str, Any] = (await client.post("/segment", **sent)).json()
    return found


def mask_of(entry: dict[str, Any]) -> NDArray[np.bool_]:
    with Image.open(io.BytesIO(base64.b64decode(entry["png"]))) as image:
        return np.asarray(image) > 0


@pytest.mark.anyio
async def test_the_heart_is_a_mask_of_its_own() -> None:
    predictor = knowing_hearts()
    (heart,) = (await answer_to(predictor, structure="heart"))["masks"]
    assert (heart["structure"], heart["side"], heart["box_index"]) == ("heart", None, 0)
    assert np.array_equal(mask_of(heart), chest() == 100)
    assert predictor.batch_sizes == [1]


@pytest.mark.anyio
async def test_lungs_and_heart_come_from_one_call_by_box() -> None:
    predictor = knowing_hearts()
    boxes = ["0,0,96,96", "1,1,95,95"]
    answer = await answer_to(predictor, structure="heart, lungs", bbox=boxes, lungs="each")
    order = [(one["box_index"], one["structure"]) for one in answer["masks"]]
    each = ("right_lung", "left_lung", "heart")
    assert order == [(box, structure) for box in (0, 1) for structure in each]
    assert predictor.batch_sizes == [1]
    plain = await answer_to(structure="lungs")
    assert [one["structure"] for one in plain["masks"]] == ["lungs"]


@pytest.mark.anyio
@pytest.mark.parametrize("fields", [{"structure": "heart"}, {"measurements": "cardiothoracic"}])
async def test_a_model_without_a_heart_says_so(fields: dict[str, Any]) -> None:
    answer = await answer_to(FakePredictor(), **fields)
    assert (answer["status"], answer["code"]) == (422, "invalid_field")
    assert "does not know the heart" in answer["detail"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"structure": "liver"}, "structure"),
        ({"structure": "heart,heart"}, "each once"),
        ({"structure": "heart", "lungs": "each"}, "lungs"),
        ({"measurements": "all"}, "cardiothoracic"),
    ],
)
async def test_fields_that_make_no_sense_are_refused(fields: dict[str, Any], word: str) -> None:
    answer = await answer_to(**fields)
    assert answer["status"] == 422 and word in answer["detail"]


@pytest.mark.anyio
async def test_one_png_cannot_be_two_structures() -> None:
    async with running(make_app(knowing_hearts())) as client:
        accept = {"Accept": "image/png"}
        both = await client.post(
            "/segment", **form(chest(), structure="lungs,heart"), headers=accept
        )
        heart = await client.post("/segment", **form(chest(), structure="heart"), headers=accept)
    assert both.status_code == 406
    assert heart.headers["x-lungseg-structure"] == "heart"


@pytest.mark.anyio
async def test_the_ratio_is_the_widest_heart_over_the_widest_thorax() -> None:
    answer = await answer_to(measurements="cardiothoracic")
    assert [one["structure"] for one in answer["masks"]] == ["lungs"]
    (measured,) = answer["measurements"]
    lungs = np.flatnonzero((chest() == 255).any(axis=0))
    thorax_px = int(lungs[-1] - lungs[0] + 1)
    ratio = measured["cardiothoracic"]
    assert (ratio["heart_width_px"], ratio["thorax_width_px"]) == (30, thorax_px)
    assert ratio["ratio"] == pytest.approx(30 / thorax_px, abs=1e-4)
    assert ratio["heart_width_mm"] is None and ratio["projection"] is None
    assert measured["heart"]["area_px"] == int((chest() == 100).sum())
    plain = (await answer_to(measurements="true"))["measurements"][0]
    assert plain["heart"] is plain["cardiothoracic"] is None


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("view", "code"),
    [("PA", None), ("AP", "cardiothoracic_ratio_on_ap"), ("", "cardiothoracic_view_unknown")],
)
async def test_a_ratio_says_whether_it_is_valid(view: str, code: str | None) -> None:
    data = dicom(ViewPosition=view, ImagerPixelSpacing=["0.5", "0.25"])
    answer = await answer_to(data=data, measurements="cardiothoracic")
    said = {one["code"] for one in answer["warnings"]} & RATIO_CODES
    assert said == ({code} if code else set())
    ratio = answer["measurements"][0]["cardiothoracic"]
    assert ratio["projection"] == (view or None)
    assert ratio["heart_width_mm"] == pytest.approx(30 * 0.25)
    plain = await answer_to(data=data, structure="lungs,heart")
    assert not {one["code"] for one in plain["warnings"]} & RATIO_CODES


@pytest.mark.anyio
async def test_a_ratio_that_is_not_valid_leaves_the_outline_plain() -> None:
    """Outlines are dashed where a person is to look at the mask, not at a number."""
    accept = {"Accept": "image/png"}
    async with running(make_app(knowing_hearts())) as client:
        plain, asked = [
            await client.post("/segment", **form(chest(), view="outline", **more), headers=accept)
            for more in ({}, {"measurements": "cardiothoracic"})
        ]
    assert "cardiothoracic_view_unknown" in asked.headers["x-lungseg-warnings"]
    assert asked.content == plain.content


@pytest.mark.anyio
async def test_without_a_heart_in_the_picture_there_is_no_ratio() -> None:
    pixels = np.where(lung_mask(SIDE), 255, 0).astype(np.uint8)
    async with running(make_app(knowing_hearts())) as client:
        sent = form(pixels, measurements="cardiothoracic")
        answer = (await client.post("/segment", **sent)).json()
    assert answer["measurements"][0]["cardiothoracic"] is None
    assert "No heart was found" in " ".join(one["message"] for one in answer["warnings"])


@pytest.mark.anyio
async def test_dicom_answers_code_the_heart_and_the_ratio() -> None:
    data = dicom(ViewPosition="AP")
    fields = {"structure": "lungs,heart", "objects": "seg,sr"}
    async with running(make_app(knowing_hearts())) as client:
        response = await client.post(
            "/segment",
            files={"image": ("x.dcm", data, "application/dicom")},
            data=fields,
            headers={"Accept": 'multipart/related; type="application/dicom"'},
        )
    boundary = response.headers["content-type"].rpartition("boundary=")[2].encode()
    bodies = [part.partition(b"\r\n\r\n")[2] for part in response.content.split(b"--" + boundary)]
    segmentation, report = (pydicom.dcmread(io.BytesIO(one)) for one in bodies[1:3])
    codes = [
        item.SegmentedPropertyTypeCodeSequence[0].CodeValue for item in segmentation.SegmentSequence
    ]
    assert codes == ["39607008", "80891009"]
    labels = [item.SegmentLabel for item in segmentation.SegmentSequence]
    assert labels == ["Lung (lung_field)", "Heart"]
    assert segmentation.ContentLabel == "LUNGS_HEART"
    text = str(report)
    assert "Cardiothoracic ratio" in text and "cardiothoracic ratio on ap (look)" in text


def heart(confidence: float = 0.97, score: float = 0.95) -> MaskPrediction:
    mask = np.zeros((100, 100), bool)
    mask[40:70, 30:80] = True
    return MaskPrediction((0.0, 0.0, 100.0, 100.0), mask, score, confidence, "heart")


def test_a_heart_is_remarked_on_by_what_the_model_says_and_by_its_pieces() -> None:
    assert check_heart(heart()) == []
    assert [one.code for one in check_heart(heart(confidence=float("nan")))] == ["undecided_mask"]
    assert [one.code for one in check_heart(heart(score=0.5))] == ["low_score"]
    found = heart()
    found.mask[40:70, 50:60] = False
    assert [one.code for one in check_heart(found)] == ["fragmented_mask"]
    found.mask[:] = False
    assert [one.code for one in check_heart(found)] == ["empty_mask"]


@pytest.mark.parametrize(
    ("attributes", "projection"),
    [
        ({"ViewPosition": "PA"}, "PA"),
        ({"ViewPosition": "AP SUPINE"}, "AP"),
        ({"ViewPosition": "LL"}, None),
        ({"ViewPosition": "", "ViewName": "postero-anterior"}, "PA"),
        ({"ViewPosition": "AP PA"}, None),
        ({}, None),
    ],
)
def test_the_projection_of_a_header(attributes: dict[str, str], projection: str | None) -> None:
    header = pydicom.Dataset()
    for keyword, value in attributes.items():
        setattr(header, keyword, value)
    assert frontal_projection(header) == projection


def test_the_code_of_a_view_counts_before_its_words() -> None:
    header, code = pydicom.Dataset(), pydicom.Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "399348003", "SCT", "AP"
    header.ViewCodeSequence, header.ViewPosition = [code], "PA"
    assert frontal_projection(header) == "AP"
