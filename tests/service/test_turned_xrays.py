"""A DICOM X-ray stored turned or mirrored gets the mask of the upright one, turned back."""

from __future__ import annotations

import base64
import io
import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model_store.boxes import Box
from model_store.pictures.orientation import orientation_of_patient
from model_store.postprocessing import MaskLogits
from model_store.prediction import MaskPrediction
from service.errors import InvalidBox
from service.imaging.answered_masks import MaskOptions, answered_masks
from service.imaging.opening import Opening, open_xray
from service.imaging.segment_request import AnswerKind, LungChoice, SegmentRequest
from service.imaging.upright import as_stored, is_turn_doubtful
from service.imaging.worker_tasks import _STATE, _State
from tests.dicom_files import as_file, make_xray
from tests.service.fake_model import make_app, running

PAIRS = [(row, column) for row in "LR" for column in "HF"]
PAIRS += [(column, row) for row, column in PAIRS]
BOX: Box = (10.0, 5.0, 60.0, 45.0)  # in the upright X-ray


def upright_xray() -> NDArray[np.uint16]:
    rows, columns = np.mgrid[0:80, 0:100]
    return (rows * 9 + columns * 21).astype(np.uint16)


def opened(pair: tuple[str, str], box: Box | None) -> Opening:
    orientation = orientation_of_patient(*pair)
    assert orientation is not None
    stored = orientation.invert(upright_xray())
    boxes = () if box is None else (box,)
    request = SegmentRequest(boxes, "lung_field", 0.5, False, AnswerKind.JSON)
    data = as_file(make_xray(stored, PatientOrientation=list(pair)))
    return open_xray(data, request, 64, 1_000_000, time.perf_counter())


@pytest.mark.parametrize("pair", PAIRS)
def test_the_model_gets_the_upright_xray_and_box(pair: tuple[str, str]) -> None:
    orientation = orientation_of_patient(*pair)
    assert orientation is not None
    stored_box = orientation.inverse.apply_to_box(BOX, 100, 80)
    turned, straight = opened(pair, stored_box), opened(("L", "F"), BOX)
    assert np.array_equal(turned.prepared.pixels, straight.prepared.pixels)
    assert turned.prepared.boxes == straight.prepared.boxes


@pytest.mark.parametrize("pair", PAIRS)
def test_masks_and_boxes_come_back_as_the_pixels_are_stored(pair: tuple[str, str]) -> None:
    one = opened(pair, None)
    mask = upright_xray() > 1500
    found = as_stored(MaskPrediction(BOX, mask, 0.9, 0.9), one.xray.decoded)
    assert np.array_equal(found.mask, one.xray.decoded.pixels > 1500)
    orientation = one.xray.decoded.orientation
    assert (
        orientation.apply_to_box(found.box, one.xray.decoded.width, one.xray.decoded.height) == BOX
    )


def test_a_box_is_checked_against_the_pixels_that_the_caller_knows() -> None:
    with pytest.raises(InvalidBox, match="80 x 100"):
        opened(("F", "R"), (0.0, 0.0, 100.0, 80.0))


@pytest.mark.parametrize("pair", [("F", "R"), ("R", "H")])
def test_the_way_back_survives_between_the_halves_of_a_request(pair: tuple[str, str]) -> None:
    xray = opened(pair, None).xray
    state = _State(xray.request, (), (), None, xray.scale, xray.decoded.orientation)
    assert _STATE.validate_json(_STATE.dump_json(state)) == state


@pytest.mark.parametrize(
    ("pair", "texts"), [(("F", "R"), ("0.2", "0.1")), (("R", "H"), ("0.1", "0.2"))]
)
def test_the_size_of_a_pixel_and_the_sides_are_those_of_the_upright_xray(
    pair: tuple[str, str], texts: tuple[str, str]
) -> None:
    data = as_file(make_xray(PatientOrientation=list(pair), ImagerPixelSpacing=["0.1", "0.2"]))
    request = SegmentRequest((), "lung_field", 0.5, False, AnswerKind.JSON)
    scale = open_xray(data, request, 64, 1_000_000, time.perf_counter()).xray.scale
    assert scale.spacing is not None
    assert scale.spacing.texts == texts
    assert scale.towards_left == (1, 0)


@pytest.mark.parametrize(
    ("pair", "confidence", "is_doubtful"),
    [
        (("F", "R"), 0.83, True),
        (("R", "H"), 0.91, True),
        (("F", "R"), 0.97, False),
        (("R", "H"), float("nan"), True),
        (("L", "F"), 0.5, False),
    ],
)
def test_a_turn_that_makes_the_model_unsure_is_doubtful(
    pair: tuple[str, str], confidence: float, is_doubtful: bool
) -> None:
    xray = opened(pair, None).xray
    found = [MaskPrediction(BOX, upright_xray() > 1500, 0.9, confidence)]
    assert is_turn_doubtful(xray.decoded, found) == is_doubtful
    options = MaskOptions(LungChoice.EACH, are_sides_certain=not is_doubtful)
    logits = [MaskLogits(BOX, np.zeros((16, 16), np.float32), 0.9)]
    masks, remarks = answered_masks(found, logits, xray.geometry, options)
    assert (is_doubtful and len(masks) == 1 and bool(remarks)) or not is_doubtful


@pytest.mark.anyio
@pytest.mark.parametrize("pair", PAIRS)
async def test_over_http_a_turned_xray_has_its_mask_inside_its_box(pair: tuple[str, str]) -> None:
    orientation = orientation_of_patient(*pair)
    assert orientation is not None
    rows, columns = np.mgrid[0:64, 0:96]
    upright = ((rows + columns) % 2 * 255).astype(np.uint8)
    upright[:40, :48] = 0
    stored = orientation.invert(upright)
    height, width = stored.shape
    inside = np.zeros((64, 96), bool)
    inside[20:60, 10:70] = True
    box = orientation.invert_box((10.0, 20.0, 70.0, 60.0), width, height)
    data = as_file(make_xray(stored, bits_stored=8, PatientOrientation=list(pair)))
    sent: dict[str, Any] = {"files": {"image": ("x.dcm", data, "application/dicom")}}
    async with running(make_app()) as client:
        whole = (await client.post("/segment", **sent)).json()["masks"]
        boxed = (await client.post("/segment", **sent, data={"bbox": str(box)[1:-1]})).json()
    assert tuple(boxed["masks"][0]["bbox"]) == box
    for (mask,), wanted in ((whole, upright > 0), (boxed["masks"], (upright > 0) & inside)):
        found = np.asarray(Image.open(io.BytesIO(base64.b64decode(mask["png"])))) > 0
        assert np.array_equal(found, orientation.invert(wanted))
