"""The quality head and the rules on masks speak by the same codes, without contradictions."""

from __future__ import annotations

from collections.abc import Collection
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from model_store.manifest import QualityHeadFile
from model_store.prediction import MaskPrediction
from model_store.quality_head import QUALITY_LABELS
from service.imaging.answer_checks import check_answer
from service.imaging.picture_kind import CUT_OFF, kind_warnings
from service.imaging.upright import is_turn_doubtful
from service.imaging.warning_advice import advice_on
from tests.service.fake_model import FakeInfo, FakeManifest, FakePredictor, form, make_app, running
from tests.service.lung_masks import lung_mask, xray_of

SIDE = 256
KIND_CODES = {"not_a_frontal_chest", "turned", "mirrored", "cut_off_mask", "inverted"}
CONTRADICTIONS = (
    {"not_a_frontal_chest", "turned"},
    {"not_a_frontal_chest", "cut_off_mask"},
    {"not_a_frontal_chest", "inverted"},
    {"not_a_frontal_chest", "mirrored"},
    {"turned", "mirrored"},
)


def codes(
    mask: NDArray[np.bool_], kind: Collection[str], pixels: NDArray[np.uint8] | None = None
) -> list[str]:
    height, width = mask.shape
    found = MaskPrediction((0.0, 0.0, float(width), float(height)), mask, 0.95, 0.98)
    grey = xray_of(mask) if pixels is None else pixels
    remarks = check_answer([found], grey, kind, is_whole_image=True)
    return [str(one.code) for one in remarks.every if one.code in KIND_CODES]


@pytest.mark.parametrize(
    ("label", "code"),
    [
        ("not_frontal_chest", "not_a_frontal_chest"),
        ("turned_90", "turned"),
        ("turned_180", "turned"),
        ("turned_270", "turned"),
        ("mirrored", "mirrored"),
    ],
)
def test_each_label_has_its_code_where_the_mask_looks_like_lungs(label: str, code: str) -> None:
    assert codes(lung_mask(SIDE), [label]) == [code]
    assert codes(lung_mask(SIDE), []) == []


def test_several_lungs_are_said_beside_lungs_that_are_cut_off() -> None:
    """Two X-rays side by side are also cut off at their edges; the graver code must stay."""
    two = np.concatenate([lung_mask(SIDE), lung_mask(SIDE)], axis=1)
    found = MaskPrediction((0.0, 0.0, 2.0 * SIDE, float(SIDE)), two, 0.95, 0.98)
    remarks = check_answer([found], xray_of(two), [CUT_OFF], is_whole_image=True)
    assert "too_many_lungs" in {str(one.code) for one in remarks.every}
    turned = check_answer([found], xray_of(two), ["turned_90"], is_whole_image=True)
    assert "too_many_lungs" not in {str(one.code) for one in turned.every}


def test_a_turn_says_which_way_is_back() -> None:
    """`turned_90` is what `np.rot90` makes: a quarter to the left."""
    ways = {turn: kind_warnings([turn])[0].message for turn in QUALITY_LABELS[1:4]}
    assert "turn it to the right" in ways["turned_90"]
    assert "turn it by a half" in ways["turned_180"]
    assert "turn it to the left" in ways["turned_270"]


def test_the_head_explains_a_shape_that_the_rules_find_unlike_lungs() -> None:
    crop = lung_mask(SIDE)[SIDE // 4 : -SIDE // 4]
    assert "cut_off_mask" in codes(crop, [])
    assert codes(crop, ["cut_off"]) == ["cut_off_mask"]
    turned = np.rot90(lung_mask(SIDE))
    assert codes(turned, []) == ["turned"]
    assert codes(turned, ["not_frontal_chest"]) == ["not_a_frontal_chest"]
    squeezed = lung_mask(SIDE)[:, ::3]
    assert codes(squeezed, []) == ["not_a_frontal_chest"]
    assert codes(squeezed, ["turned_180"]) == ["turned"]


def test_rules_stay_where_the_head_says_nothing() -> None:
    squeezed, inverted = lung_mask(SIDE)[:, ::3], lung_mask(SIDE)
    assert codes(squeezed, []) == ["not_a_frontal_chest"]
    assert codes(inverted, [], 255 - xray_of(inverted)) == ["inverted"]


def test_lungs_with_room_on_all_sides_are_not_cut_off() -> None:
    assert codes(lung_mask(SIDE), ["cut_off"]) == []
    assert codes(lung_mask(SIDE)[:, ::3], ["cut_off"]) == ["not_a_frontal_chest"]
    assert codes(lung_mask(SIDE)[: SIDE // 2], ["cut_off"]) == ["cut_off_mask"]


def test_dark_lungs_are_not_inverted() -> None:
    mask = lung_mask(SIDE)
    assert codes(mask, ["inverted"]) == []
    assert codes(mask, ["inverted"], 255 - xray_of(mask)) == ["inverted"]
    unlike = np.zeros_like(mask)
    unlike[60:200, 60:200] = True
    assert "inverted" in codes(unlike, ["inverted"])


def test_no_picture_gets_two_codes_that_contradict_each_other() -> None:
    masks = [lung_mask(SIDE), np.rot90(lung_mask(SIDE)), lung_mask(SIDE)[SIDE // 4 : -SIDE // 4]]
    kinds = [set(kind) for n in range(4) for kind in combinations(QUALITY_LABELS, n)]
    for mask in masks:
        for kind in kinds:
            said = codes(mask, kind)
            assert len(said) == len(set(said)), (kind, said)
            assert not any(pair <= set(said) for pair in CONTRADICTIONS), (kind, said)


def test_only_a_mirrored_or_inverted_chest_may_still_be_used_after_a_look() -> None:
    for label in QUALITY_LABELS:
        (warning,) = kind_warnings([label])
        is_usable = label in ("mirrored", "inverted", "cut_off")
        assert advice_on(warning.code).severity == ("look" if is_usable else "refuse")


def with_head(**said: float) -> FakePredictor:
    """A model whose head finds these probabilities, each limit being 0.6."""
    head = QualityHeadFile(
        sha256="0" * 64, labels=QUALITY_LABELS, limits=dict.fromkeys(QUALITY_LABELS, 0.6)
    )
    quality = dict.fromkeys(QUALITY_LABELS, 0.1) | said
    info = FakeInfo(manifest=FakeManifest(quality_head=head))
    return FakePredictor(info=info, quality=quality)


@pytest.mark.anyio
async def test_the_head_of_the_model_warns_over_http() -> None:
    pixels = np.where(lung_mask(96), 255, 0).astype(np.uint8)
    said: dict[float, list[str]] = {}
    for probability in (0.59, 0.61):
        async with running(make_app(with_head(turned_180=probability))) as client:
            answer = (await client.post("/segment", **form(pixels))).json()
            accept = {"Accept": "image/png"}
            picture = await client.post("/segment", **form(pixels), headers=accept)
        said[probability] = [one["code"] for one in answer["warnings"]]
        assert picture.headers["x-lungseg-warnings"] == ",".join(said[probability])
    assert "turned" not in said[0.59] and "turned" in said[0.61]


def test_a_header_that_turned_an_upright_xray_is_doubtful_by_the_head() -> None:
    from tests.service.test_turned_xrays import BOX, opened, upright_xray

    decoded = opened(("F", "R"), None).xray.decoded
    sure = [MaskPrediction(BOX, upright_xray() > 1500, 0.9, 0.99)]
    assert not is_turn_doubtful(decoded, sure, ["inverted"])
    assert is_turn_doubtful(decoded, sure, ["turned_270"])
    assert is_turn_doubtful(decoded, sure, ["mirrored"])
    assert not is_turn_doubtful(opened(("L", "F"), None).xray.decoded, sure, ["turned_270"])
