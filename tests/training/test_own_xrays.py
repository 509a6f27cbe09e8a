"""A hospital's own folder becomes a data set, whichever tool annotated it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image, ImageFilter
from pycocotools import mask as runs

from tests.dicom_files import as_file, make_xray
from training.__main__ import main
from training.data.dataset import load_xray, read_rows
from training.evaluation.metrics import dice
from training.phantom import draw_phantom

SIDE = 96
COUNT = 12


def phantom(seed: int) -> Any:
    return draw_phantom(seed, (SIDE, SIDE + 8))


def lungs(seed: int) -> tuple[np.ndarray, np.ndarray]:
    drawn = phantom(seed)
    return drawn.image_left_lung("lung_field"), drawn.image_right_lung("lung_field")


def heart(seed: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE + 8), bool)
    mask[50:70, 45:65] = True
    left, right = lungs(seed)
    return mask & ~left & ~right


def write_xrays(root: Path, suffix: str = ".png", deep: bool = False) -> Path:
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    for seed in range(COUNT):
        image = phantom(seed).image
        path = root / "images" / f"pat{seed // 2:02d}_{seed}{suffix}"
        if suffix == ".nii.gz":
            values = image.astype(np.int16).T
            nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.0, -1, 1, 1])), path)
        else:
            Image.fromarray(image.astype(np.uint16) * 200 if deep else image).save(path)
    return root


def name(seed: int) -> str:
    return f"pat{seed // 2:02d}_{seed}"


def as_masks(root: Path) -> None:
    for seed in range(COUNT):
        left, right = lungs(seed)
        Image.fromarray(left | right).save(root / "masks" / f"{name(seed)}_mask.png")


def label_map(seed: int) -> np.ndarray:
    left, right = lungs(seed)  # the patient's right lung is at the image's left
    return (left * 1 + right * 2 + heart(seed) * 3).astype(np.uint8)


def as_label_maps(root: Path) -> None:
    for seed in range(COUNT):
        Image.fromarray(label_map(seed)).save(root / "masks" / f"{name(seed)}.tif")


def as_nifti(root: Path) -> None:
    for seed in range(COUNT):
        image = nibabel.Nifti1Image(label_map(seed).T[:, :, None], np.diag([-0.2, -0.2, 1, 1]))
        nibabel.save(image, root / "masks" / f"{name(seed)}.nii.gz")


def as_coco(root: Path) -> None:
    names = {1: "Right lung", 2: "left_lung", 3: "Heart"}
    annotations: list[dict[str, Any]] = []
    for seed in range(COUNT):
        for label in names:
            coded = runs.encode(np.asfortranarray((label_map(seed) == label).astype(np.uint8)))
            coded["counts"] = coded["counts"].decode()
            annotations.append(
                {"image_id": seed, "category_id": label, "segmentation": coded, "id": 0}
            )
    values = {
        "images": [
            {"id": seed, "file_name": f"{name(seed)}.png", "height": SIDE, "width": SIDE + 8}
            for seed in range(COUNT)
        ],
        "categories": [{"id": label, "name": text} for label, text in names.items()],
        "annotations": annotations,
    }
    (root / "instances.json").write_text(json.dumps(values))


def as_labelme(root: Path) -> None:
    import cv2

    for seed in range(COUNT):
        shapes = []
        for label, text in ((1, "right lung"), (2, "left lung"), (3, "heart")):
            mask = (label_map(seed) == label).astype(np.uint8)
            for outline in cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]:
                if len(outline) > 2:
                    points = outline[:, 0, :].tolist()
                    shapes.append({"label": text, "shape_type": "polygon", "points": points})
        values = {"shapes": shapes, "imageWidth": SIDE + 8, "imageHeight": SIDE}
        (root / "images" / f"{name(seed)}.json").write_text(json.dumps(values))


def prepare(root: Path, out: Path, *extra: str) -> int:
    return main(
        ["prepare", "--source", "folder", "--root", str(root), "--out", str(out),
         "--license", "hospital's own", "--name", "ward", *extra]
    )  # fmt: skip


LABELS = ("--labels", "right=1,left=2,heart=3")
PATTERN = ("--patient-pattern", r"^(pat\d+)_")


@pytest.mark.parametrize(
    ("annotate", "extra"),
    [
        (as_masks, ()), (as_label_maps, LABELS), (as_nifti, LABELS), (as_coco, ()),
        (as_labelme, ()),
    ],
    ids=["masks", "label maps", "NIfTI", "COCO", "LabelMe"],
)  # fmt: skip
def test_every_kind_of_annotation_is_the_same_mask(
    tmp_path: Path, annotate: Callable[[Path], None], extra: tuple[str, ...]
) -> None:
    root = write_xrays(tmp_path / "raw")
    annotate(root)
    assert prepare(root, tmp_path / "data", *extra, *PATTERN, "--only", "train") == 0
    seen = 0
    for split in ("train",):
        for row in read_rows(tmp_path / "data", split):
            seed = int(row.name.rpartition("_")[2])
            left, right = lungs(seed)
            assert dice(load_xray(row).mask, left | right) > 0.985
            assert (row.source, row.license, row.convention) == (
                "ward",
                "hospital's own",
                "lung_field",
            )
            seen += 1
            if annotate is not as_masks:
                path = tmp_path / "data" / "further" / "heart" / f"{row.name}.png"
                assert dice(np.asarray(Image.open(path)), heart(seed)) > 0.95
    assert seen == COUNT


def test_soft_masks_are_read_by_the_threshold_that_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_xrays(tmp_path / "raw")
    for seed in range(COUNT):
        left, right = lungs(seed)
        soft = Image.fromarray(left | right).convert("L").filter(ImageFilter.BoxBlur(2))
        soft.save(root / "masks" / f"{name(seed)}.png")
    assert prepare(root, tmp_path / "data", *PATTERN) == 2
    assert "--mask-threshold" in capsys.readouterr().err
    threshold = ("--mask-threshold", "0.5")
    assert prepare(root, tmp_path / "data", *PATTERN, *threshold, "--only", "train") == 0
    for row in read_rows(tmp_path / "data", "train"):
        left, right = lungs(int(row.name.rpartition("_")[2]))
        assert dice(load_xray(row).mask, left | right) > 0.97


def test_a_turned_dicom_xray_is_stored_upright_with_its_mask(tmp_path: Path) -> None:
    root = write_xrays(tmp_path / "raw")
    as_masks(root)
    for seed in range(COUNT):
        (root / "images" / f"{name(seed)}.png").unlink()
        dataset = make_xray(np.rot90(phantom(seed).image), bits_stored=8)
        dataset.PatientOrientation = ["F", "R"]  # a quarter turn against the clock
        (root / "images" / f"{name(seed)}.dcm").write_bytes(as_file(dataset))
        path = root / "masks" / f"{name(seed)}_mask.png"
        Image.fromarray(np.rot90(np.asarray(Image.open(path)))).save(path)
    assert prepare(root, tmp_path / "data", *PATTERN, "--only", "train") == 0
    for row in read_rows(tmp_path / "data", "train"):
        seed = int(row.name.rpartition("_")[2])
        left, right = lungs(seed)
        assert np.array_equal(load_xray(row).mask, left | right)
        stored = np.asarray(Image.open(row.image_path)).astype(int)
        assert np.abs(stored - phantom(seed).image).mean() < 3


def test_patients_are_never_split_apart(tmp_path: Path) -> None:
    root = write_xrays(tmp_path / "raw")
    as_masks(root)
    with (tmp_path / "who.csv").open("w", newline="", encoding="utf-16") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(["image", "patient"])
        writer.writerows((f"{name(seed)}.png", seed % 3) for seed in range(COUNT))
    assert prepare(root, tmp_path / "data", "--patients", str(tmp_path / "who.csv")) == 0
    with (tmp_path / "data" / "manifest.csv").open(newline="") as file:
        records = list(csv.DictReader(file))
    splits = {record["patient"]: set() for record in records}  # type: ignore[var-annotated]
    for record in records:
        splits[record["patient"]].add(record["split"])
    assert set(splits) == {"ward_0", "ward_1", "ward_2"}
    assert all(len(found) == 1 for found in splits.values())


def test_sixteen_bits_are_kept_and_all_can_be_for_a_test(tmp_path: Path) -> None:
    root = write_xrays(tmp_path / "raw", ".tif", deep=True)
    as_masks(root)
    assert prepare(root, tmp_path / "data", *PATTERN, "--only", "test") == 0
    rows = read_rows(tmp_path / "data", "test")
    assert len(rows) == COUNT
    stored = np.asarray(Image.open(rows[0].image_path))
    seed = int(rows[0].name.rpartition("_")[2])
    assert np.array_equal(stored, phantom(seed).image.astype(np.uint16) * 200)


def test_xrays_in_nifti_lie_as_they_were_written(tmp_path: Path) -> None:
    root = write_xrays(tmp_path / "raw", ".nii.gz")
    as_nifti(root)
    assert prepare(root, tmp_path / "data", *LABELS, *PATTERN) == 0
    row = read_rows(tmp_path / "data", "train")[0]
    seed = int(row.name.rpartition("_")[2])
    found = load_xray(row).image
    assert np.corrcoef(found.ravel(), phantom(seed).image.ravel())[0, 1] > 0.98


@pytest.mark.parametrize(
    ("break_it", "extra", "said"),
    [
        (lambda root: None, ("--license", " "), "--license must say"),
        (lambda root: None, ("--patient-pattern", "("), "--patient-pattern"),
        (lambda root: None, ("--patient-pattern", "pat"), "has 0 groups"),
        (lambda root: None, ("--patient-pattern", "^(pat00)_"), "10 X-rays have no patient"),
        (lambda root: None, ("--labels", "spleen=4"), "not PART=LABEL"),
        (lambda root: (root / "masks" / "pat00_0.tif").unlink(), (), "X-ray without a mask"),
        (
            lambda root: Image.fromarray(label_map(0) * 2).save(root / "masks" / "pat00_0.tif"),
            (), "the label map has the values 2, 4, 6; say what 4 is",
        ),
        (
            lambda root: Image.fromarray((label_map(0) == 1).astype(np.uint8)).save(
                root / "masks" / "pat00_0.tif"
            ),
            (), "the left lung is not annotated",
        ),
        (
            lambda root: nibabel.save(
                nibabel.Nifti1Image(label_map(0).T, np.eye(4)), root / "masks" / "pat00_0.nii"
            ),
            (), "is annotated in",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_known_is_refused(
    tmp_path: Path, break_it: Callable[[Path], Any], extra: tuple[str, ...], said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    root = write_xrays(tmp_path / "raw")
    as_label_maps(root)
    break_it(root)
    assert prepare(root, tmp_path / "data", *LABELS, *PATTERN, *extra) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_a_nifti_of_unknown_direction_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_xrays(tmp_path / "raw")
    as_nifti(root)
    turned = nibabel.Nifti1Image(label_map(0).T, np.eye(4))
    nibabel.save(turned, root / "masks" / "pat00_0.nii.gz")
    assert prepare(root, tmp_path / "data", *LABELS) == 2
    assert "Which way up the X-ray is would be a guess" in capsys.readouterr().err
