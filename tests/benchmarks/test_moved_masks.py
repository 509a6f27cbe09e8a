"""Masks that a change of reading moved: what counts as moved, and the kinds of files tried."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.quality.moved_masks import (
    MOVED,
    READ_NOW,
    REFUSED_NOW,
    SAME_MASK,
    Moved,
    files_of,
    sheet_of,
)
from benchmarks.quality.versions_reading import Reading, read_by
from benchmarks.quality.written_kinds import KINDS
from model_store.pictures.orientation import UPRIGHT, Orientation
from model_store.pictures.picture_reading import read_picture
from training.phantom import draw_phantom

ROOT = Path(__file__).parents[2]
PHANTOM = draw_phantom(3, (120, 96)).image
MASK = np.median(PHANTOM) < PHANTOM
LOSE_TISSUE = {"DICOM, padding as bright as tissue", "PNG of 4 bits, white transparent"}
"""Bright tissue that touches the padding, or is declared transparent, is black."""
READ = Reading(PHANTOM, UPRIGHT, "")
REFUSED = Reading(None, UPRIGHT, "UndecodablePictureError: no.")


def moved(before: Reading, after: Reading, second: NDArray[np.bool_] = MASK) -> Moved:
    masks = tuple(
        () if reading.pixels is None else (mask, mask)
        for reading, mask in ((before, MASK), (after, second))
    )
    return Moved("change", Path("a/file.dcm"), before, after, (masks[0], masks[1]))


def test_what_a_change_did_is_told_by_both_masks() -> None:
    assert moved(READ, REFUSED).kind == REFUSED_NOW
    assert moved(REFUSED, READ).kind == READ_NOW
    assert moved(READ, READ).kind == SAME_MASK
    other = MASK.copy()
    other[0, 0] = ~other[0, 0]
    one = moved(READ, READ, other)
    assert one.kind == MOVED
    assert 0.99 < min(one.dices) < 1
    assert one.row()["before"] != one.row()["after"]
    assert moved(READ, READ, other[1:]).dices == [0.0, 0.0]


def test_a_turn_or_another_depth_is_another_reading() -> None:
    assert READ.equals(Reading(PHANTOM.copy(), UPRIGHT, ""))
    assert REFUSED.equals(Reading(None, UPRIGHT, "another sentence"))
    assert not READ.equals(REFUSED)
    assert not READ.equals(Reading(PHANTOM, Orientation(mirrors_columns=True), ""))
    assert not READ.equals(Reading(PHANTOM.astype(np.uint16), UPRIGHT, ""))


def test_the_sheet_shows_two_of_a_kind() -> None:
    other = MASK.copy()
    other[:40] = False
    rows = len(sheet_of([moved(READ, READ, other)]))
    assert len(sheet_of([moved(READ, READ, other)] * 5)) == 2 * rows


def test_a_version_reads_files_or_says_why_not(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_bytes(b"no picture")
    kind = KINDS["DICOM turned by a quarter"]
    (tmp_path / "a.dcm").write_bytes(kind.write(kind.as_stored(PHANTOM)))
    turned, refused = read_by(ROOT, files_of([tmp_path]))
    assert turned.pixels is not None
    assert turned.turn.is_transposed
    assert turned.turn.apply(turned.pixels).shape == PHANTOM.shape
    assert refused.pixels is None
    assert refused.refusal.startswith("UndecodablePictureError: ")


def test_a_folder_without_the_code_is_no_version(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no model_store in this folder"):
        read_by(tmp_path, [ROOT / "README.md"])


@pytest.mark.parametrize("name", KINDS)
def test_every_written_kind_comes_back_upright(name: str) -> None:
    kind = KINDS[name]
    picture = read_picture(kind.write(kind.as_stored(PHANTOM)), max_pixels=10**6)
    inner = (slice(10, -10), slice(10, -10))
    found = picture.upright[inner].astype(float).ravel()
    alike = np.corrcoef(found, PHANTOM[inner].astype(float).ravel())[0, 1]
    assert alike > (0.5 if name in LOSE_TISSUE else 0.97)
    assert np.array_equal(picture.orientation.invert(MASK), kind.as_stored(MASK))
