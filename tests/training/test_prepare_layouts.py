"""Each owner's layout: what is found, how it is decoded, what is reported."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import raw_downloads
from tests.raw_downloads import SIDE, phantom
from training.commands.prepare import SOURCE_NAMES
from training.errors import DataError
from training.evaluation.metrics import dice
from training.prepare.pair import Found, RawPair
from training.prepare.patients import patient_of
from training.prepare.pixels import PixelError, read_grey, read_mask, to_stored
from training.prepare.sources import SOURCES


def find(source: str, root: Path, count: int = 4) -> Found:
    write: Callable[[Path, int], Path] = getattr(raw_downloads, source)
    return SOURCES[source].find(write(root, count))


def test_the_command_knows_all_sources() -> None:
    assert set(SOURCE_NAMES) == {*SOURCES, "folder"}
    guide = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    assert all(f"| `{source}` |" in guide for source in SOURCES)


@pytest.mark.parametrize("source", [s for s in SOURCES if s not in ("darwin", "covid_qu_ex")])
def test_every_pair_is_found(source: str, tmp_path: Path) -> None:
    found = find(source, tmp_path)
    assert len(found.pairs) == 4 and not found.problems
    lungs = source not in ("qata_cov19", "pneumothorax")
    for pair in found.pairs:
        assert pair.source == source
        assert (pair.structure == "lungs") is lungs
        assert pair.convention == ("lung_field" if lungs else None)
        assert pair.picture.read().shape[0] == pair.picture.read().shape[1]


FIRST_SEED = {"montgomery": 0, "shenzhen": 100, "jsrt": 201, "covid19_radiography": 300}


@pytest.mark.parametrize("source", FIRST_SEED)
def test_image_and_mask_are_those_that_were_drawn(source: str, tmp_path: Path) -> None:
    pair = min(find(source, tmp_path).pairs, key=lambda pair: pair.name)
    side = 299 if source == "covid19_radiography" else SIDE
    drawn = phantom(FIRST_SEED[source], side)
    image, mask = to_stored(pair.picture.read(), pair.mask.read(), side)
    assert dice(np.asarray(mask) > 0, drawn.mask("lung_field")) > 0.97
    agreement = np.corrcoef(np.asarray(image).ravel(), drawn.image.ravel())[0, 1]
    assert agreement > 0.98  # so it is not inverted either


def test_jsrt_films_are_inverted_words_of_12_bits(tmp_path: Path) -> None:
    pair = find("jsrt", tmp_path, 1).pairs[0]
    pixels = pair.picture.read()
    assert pixels.dtype == np.uint16 and pixels.shape == (2048, 2048) and pixels.max() <= 4095
    words = np.frombuffer(pair.picture.path.read_bytes(), ">u2").reshape(2048, 2048)
    assert np.array_equal(pixels, 4095 - words)
    assert pair.spacing_mm == 0.175
    film = pair.picture.path
    film.write_bytes(film.read_bytes()[:-2])
    with pytest.raises(PixelError, match="8388606 bytes, not the 8388608"):
        pair.picture.read()
    film.write_bytes(b"\xff\xff" * 2048 * 2048)
    with pytest.raises(PixelError, match="65535, above 12 bits"):
        pair.picture.read()


def test_covid_qu_ex_has_lungs_once_and_infections(tmp_path: Path) -> None:
    found = find("covid_qu_ex", tmp_path, 6)
    lungs = [pair for pair in found.pairs if pair.structure == "lungs"]
    infections = [pair for pair in found.pairs if pair.structure == "infection"]
    assert len(lungs) == 6 and len(infections) == 3 and not found.problems
    assert all("Lung Segmentation" in str(pair.mask.path) for pair in lungs)
    assert all(pair.mask.path.parent.name == "infection masks" for pair in infections)


def test_the_infection_part_alone_gives_its_lungs(tmp_path: Path) -> None:
    raw_downloads.covid_qu_ex(tmp_path, 6)
    found = SOURCES["covid_qu_ex"].find(tmp_path / "Infection Segmentation Data")
    assert sorted(pair.structure for pair in found.pairs) == ["infection"] * 3 + ["lungs"] * 3


def test_darwin_polygons_fill_their_pixels(tmp_path: Path) -> None:
    found = find("darwin", tmp_path, 3)
    assert [pair.convention for pair in found.pairs] == ["whole_lung", "whole_lung"]
    assert [p.reason for p in found.problems] == ["X-ray without a mask: no Lung polygon"]
    wanted = np.zeros((SIDE, SIDE), bool)
    wanted[20:80, 10:40] = wanted[20:80, 56:86] = True
    for pair in found.pairs:
        assert dice(pair.mask.read(), wanted) > 0.97


def test_darwin_rings_inside_a_ring_are_holes(tmp_path: Path) -> None:
    outer, inner = (10, 10, 80, 80), (30, 30, 60, 60)
    name = "film.png"
    raw_downloads.save(tmp_path / name, phantom(0).image)
    paths = [raw_downloads._corners(box) for box in (outer, inner)]
    content = raw_downloads.darwin_v2(name, [])
    content["annotations"] = [{"name": "Lung", "polygon": {"paths": paths}}]
    write_json(tmp_path / "film.json", content)
    mask = SOURCES["darwin"].find(tmp_path).pairs[0].mask.read()
    assert mask[20, 20] and not mask[45, 45] and not mask[5, 5]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"item": {"name": "gone.png", "slots": [{"width": 9, "height": 9}]}}, "gone.png is not"),
        ({"item": {"name": "film.png", "slots": []}}, "not a Darwin annotation"),
        ({"item": {"name": "film.png", "slots": [{"width": 9**9, "height": 9}]}}, "387420489 x 9"),
        ({"annotations": [{"name": "Lung", "polygon": {"paths": [[]]}}]}, "three points"),
        ({"annotations": ["Lung"]}, "not a Darwin annotation"),
    ],
)
def test_darwin_files_that_are_none(change: dict[str, object], reason: str, tmp_path: Path) -> None:
    raw_downloads.save(tmp_path / "film.png", phantom(0).image)
    write_json(tmp_path / "film.json", {**raw_downloads.darwin_v2("film.png", []), **change})
    problems = SOURCES["darwin"].find(tmp_path).problems
    assert any(reason in problem.reason for problem in problems), problems


def write_json(path: Path, content: object) -> None:
    import json

    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("source", "lost", "reason"),
    [
        ("montgomery", "CXR_png/MCUCXR_0001_1.png", "mask without an X-ray"),
        ("montgomery", "leftMask/MCUCXR_0001_1.png", "one lung without the other"),
        ("montgomery", "rightMask/MCUCXR_0001_1.png", "one lung without the other"),
        ("shenzhen", "mask/CHNCXR_0001_0_mask.png", "X-ray without a mask"),
        ("jsrt", "JPCLN001.IMG", "mask without an X-ray"),
        ("jsrt", "right lung/JPCLN001.gif", "one lung without the other"),
        ("covid19_radiography", "masks/COVID-1.png", "X-ray without a mask"),
        ("qata_cov19", "Images/sub-S00000_ses-E0_run-1_bp-chest_vp-ap_dx.png", "without an X-ray"),
        ("pneumothorax", "png_masks/0_train_0_.png", "X-ray without a mask"),
        ("covid_qu_ex", "lung masks/covid_1.png", "X-ray without a mask"),
        ("darwin", "images/person0_virus_0.jpeg", "its image person0_virus_0.jpeg is not there"),
    ],
)
def test_files_without_a_partner_are_told(
    source: str, lost: str, reason: str, tmp_path: Path
) -> None:
    before = find(source, tmp_path, 3)
    files = [path for path in tmp_path.rglob("*") if str(path).endswith(lost)]
    assert files
    for file in files:
        file.unlink()
    after = SOURCES[source].find(tmp_path)
    new = set(after.problems) - set(before.problems)
    assert reason in " ".join(problem.reason for problem in new)
    assert len(after.pairs) == len(before.pairs) - 1


@pytest.mark.parametrize("source", SOURCES)
def test_another_folder_is_refused(source: str, tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("nothing here")
    with pytest.raises(DataError, match=f"does not look like {source}"):
        SOURCES[source].find(tmp_path)


@pytest.mark.parametrize(
    ("stem", "patient"),
    [
        ("sub-S03044_ses-E08765_run-1_bp-chest_vp-ap_cr", "bimcv_S03044"),
        ("mask_sub-S1_ses-E2", "bimcv_S1"),
        ("person1227_virus_2078", "kermany_person1227_virus"),
        ("NORMAL2-IM-0971-0001-0002", "kermany_NORMAL2-IM-0971"),
        ("IM-0307-0001", "kermany_IM-0307"),
        ("00000013_005", "nih_00000013"),
        ("covid_12", None),
        ("COVID-12", None),
    ],
)
def test_patients_are_told_by_file_names(stem: str, patient: str | None) -> None:
    assert patient_of(stem) == patient


def test_16_bits_are_windowed_and_8_bits_kept(tmp_path: Path) -> None:
    ramp = np.linspace(1000, 3000, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    deep = read_grey(tmp_path / "deep.png")
    assert deep.dtype == np.uint16 and np.array_equal(deep, ramp)
    image, _ = to_stored(deep, np.ones((64, 64), bool), 64)
    assert np.asarray(image).min() == 0 and np.asarray(image).max() == 255
    flat = np.linspace(100, 140, 64 * 64).reshape(64, 64).astype(np.uint8)
    Image.fromarray(flat).save(tmp_path / "flat.png")
    image, _ = to_stored(read_grey(tmp_path / "flat.png"), np.ones((64, 64), bool), 64)
    assert np.array_equal(np.asarray(image), flat)


def test_masks_of_0_and_1_and_grey_edges(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8)).save(tmp_path / "ones.png")
    assert np.array_equal(read_mask((tmp_path / "ones.png",)), [[False, True], [True, False]])
    Image.fromarray(np.array([[0, 90], [255, 140]], np.uint8)).save(tmp_path / "soft.png")
    with pytest.raises(PixelError, match="4 levels"):
        read_mask((tmp_path / "soft.png",))
    found = read_mask((tmp_path / "soft.png",), 0.5)
    assert np.array_equal(found, [[False, False], [True, True]])


def test_an_xray_is_read_as_the_service_reads_it(tmp_path: Path) -> None:
    ramp = np.add.outer(np.arange(64) * 700, np.arange(64) * 300).astype(np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(ramp).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_grey(tmp_path / "turned.png"), ramp[::-1, ::-1])
    Image.fromarray(65535 - ramp).save(tmp_path / "white.tif", tiffinfo={262: 0})
    assert np.array_equal(read_grey(tmp_path / "white.tif"), ramp)


def test_pictures_that_cannot_be_used(tmp_path: Path) -> None:
    grey = tmp_path / "grey.png"
    Image.new("L", (64, 64), 77).save(grey)
    with pytest.raises(PixelError, match="all of one grey, 77"):
        read_grey(grey)
    raw_downloads.save(grey, phantom(1).image)
    grey.write_bytes(grey.read_bytes()[:900])
    with pytest.raises(PixelError, match="cannot be read"):
        read_grey(grey)
    with pytest.raises(PixelError, match="cannot be read"):
        read_grey(tmp_path / "absent.png")
    with pytest.raises(PixelError, match="64 x 32 pixels, the X-ray 64 x 64"):
        to_stored(np.zeros((64, 64), np.uint8), np.zeros((32, 64), bool), 64)


def test_the_pair_of_a_name_with_blanks(tmp_path: Path) -> None:
    pairs: dict[str, RawPair] = {p.name: p for p in find("covid19_radiography", tmp_path).pairs}
    assert "Viral Pneumonia-2" in pairs
