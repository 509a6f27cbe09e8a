from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data.config import DataConfig
from training.data.dataset import load_xray, load_xrays, read_rows, split_lungs
from training.errors import DataError
from training.phantom.dataset import write_phantom_dataset
from training.run.selection import load_training_xrays


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_phantom_dataset(tmp_path, {"train": 3, "val": 2}, longest_side=96)
    return tmp_path


def test_rows_and_images_come_back(data: Path) -> None:
    rows = read_rows(data, "train")
    assert [row.convention for row in rows] == ["lung_field", "whole_lung", "lung_field"]
    for xray in load_xrays(rows):
        assert xray.image.shape == xray.mask.shape == xray.lungs.shape[1:]
        assert xray.lungs[0].any() and xray.lungs[1].any()
        assert not (xray.lungs[0] & xray.lungs[1]).any()


def test_images_can_be_held_smaller(data: Path) -> None:
    xray = load_xray(read_rows(data, "val")[0], longest_side=48)
    assert max(xray.image.shape) == 48 and xray.mask.shape == xray.image.shape


def test_the_left_lung_of_the_picture_comes_first() -> None:
    mask = np.zeros((40, 60), bool)
    mask[5:35, 5:25] = mask[5:30, 35:55] = True
    mask[36:38, 40:42] = True  # a speck goes with its side
    lungs = split_lungs(mask)
    assert lungs[0].sum() == 600 and lungs[1].sum() == 504
    assert np.array_equal(lungs.any(axis=0), mask)


def test_touching_lungs_stay_together() -> None:
    mask = np.zeros((40, 60), bool)
    mask[5:35, 5:55] = True
    lungs = split_lungs(mask)
    assert np.array_equal(lungs[0], mask) and not lungs[1].any()


def test_problems_are_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"manifest\.csv is missing"):
        read_rows(tmp_path / "nowhere", "train")
    with pytest.raises(DataError, match="no rows of the split 'test'"):
        read_rows(data, "test")
    row = read_rows(data, "val")[0]
    Image.new("1", (5, 5)).save(row.mask_path)
    with pytest.raises(DataError, match=rf"{row.name}: image is"):
        load_xray(row)
    row.image_path.write_bytes(b"not an image")
    with pytest.raises(DataError, match=row.name):
        load_xray(row)
    manifest = data / "manifest.csv"
    manifest.write_text(manifest.read_text().replace("lung_field", "lungs"))
    with pytest.raises(DataError, match="lung_field, whole_lung"):
        read_rows(data, "train")
    manifest.write_text("name,split,source,convention,structure\na,val,x,lung_field,heart\n")
    with pytest.raises(DataError, match="structure is 'heart'; it must be one of lungs"):
        read_rows(data, "val")
    manifest.write_text("name,split\n")
    with pytest.raises(DataError, match="source, convention"):
        read_rows(data, "train")


def test_folds_divide_the_patients(tmp_path: Path) -> None:
    write_phantom_dataset(tmp_path, {"train": 12, "val": 1}, longest_side=48)
    seen = [
        {
            xray.name
            for xray in load_training_xrays(
                DataConfig(str(tmp_path), folds=3, without_fold=without)
            )
        }
        for without in (-1, 0, 1, 2)
    ]
    everything, *others = seen
    assert len(everything) == 12 and all(other < everything for other in others)
    left_out = [everything - other for other in others]
    assert set.union(*left_out) == everything and sum(map(len, left_out)) == 12


def test_films_of_a_patient_stay_in_one_fold(tmp_path: Path) -> None:
    write_phantom_dataset(tmp_path, {"train": 12, "val": 1}, longest_side=48)
    manifest = tmp_path / "manifest.csv"
    lines = manifest.read_text().splitlines()
    named = [lines[0]]
    for i, line in enumerate(lines[1:]):
        fields = line.split(",")
        fields[lines[0].split(",").index("group")] = f"patient {i // 2}"
        named.append(",".join(fields))
    manifest.write_text("\n".join(named))
    kept = [
        {
            xray.group
            for xray in load_training_xrays(DataConfig(str(tmp_path), folds=3, without_fold=fold))
        }
        for fold in range(3)
    ]
    left_out = [set.union(*kept) - groups for groups in kept]
    assert sum(map(len, left_out)) == len(set.union(*kept)) == 6
