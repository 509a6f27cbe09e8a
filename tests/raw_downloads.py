"""Small folders that look like the downloads of each source, drawn chest phantoms in them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from training.phantom import Phantom, draw_phantom

SIDE = 96


def phantom(seed: int, side: int = SIDE) -> Phantom:
    return draw_phantom(seed, (side, side))


def save(path: Path, pixels: NDArray[np.generic], size: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = pixels.astype(np.uint8) * 255 if pixels.dtype == bool else pixels
    image = Image.fromarray(array)
    (image if size is None else image.resize((size, size))).save(path)


def montgomery(root: Path, count: int, first: int = 0, side: int = SIDE) -> Path:
    base = root / "MontgomerySet"
    for index in range(count):
        drawn = phantom(first + index, side)
        name = f"MCUCXR_{index:04d}_{index % 2}.png"
        save(base / "CXR_png" / name, drawn.image)
        save(base / "ManualMask" / "leftMask" / name, drawn.image_right_lung("lung_field"))
        save(base / "ManualMask" / "rightMask" / name, drawn.image_left_lung("lung_field"))
    (base / "CXR_png" / "Thumbs.db").write_bytes(b"")
    return root


def shenzhen(root: Path, count: int, first: int = 100) -> Path:
    for index in range(count):
        drawn, name = phantom(first + index), f"CHNCXR_{index:04d}_0"
        save(root / "CXR_png" / f"{name}.png", np.stack([drawn.image] * 3, axis=-1))
        save(root / "mask" / "mask" / f"{name}_mask.png", drawn.mask("lung_field"))
    return root


def jsrt(root: Path, count: int, first: int = 200) -> Path:
    for index in range(1, count + 1):
        drawn, name = phantom(first + index), f"JPCLN{index:03d}"
        grey = np.asarray(Image.fromarray(drawn.image).resize((2048, 2048)), dtype=np.uint16)
        film = (4095 - grey * 16).astype(">u2")
        (root / "All247images").mkdir(parents=True, exist_ok=True)
        (root / "All247images" / f"{name}.IMG").write_bytes(film.tobytes())
        fold = root / "scratch" / ("fold1" if index % 2 else "fold2") / "masks"
        left, right = drawn.image_right_lung("lung_field"), drawn.image_left_lung("lung_field")
        save(fold / "left lung" / f"{name}.gif", left, 1024)
        save(fold / "right lung" / f"{name}.gif", right, 1024)
        save(fold / "heart" / f"{name}.gif", ~left, 1024)
    return root


def covid19_radiography(root: Path, count: int, first: int = 300) -> Path:
    base = root / "COVID-19_Radiography_Dataset"
    for index in range(count):
        drawn = phantom(first + index, 299)
        kind = ("COVID", "Viral Pneumonia")[index % 2]
        mask = np.stack([drawn.mask("lung_field").astype(np.uint8) * 255] * 3, axis=-1)
        save(base / kind / "images" / f"{kind}-{index + 1}.png", drawn.image)
        save(base / kind / "masks" / f"{kind}-{index + 1}.png", mask, 256)
    (base / "COVID.metadata.xlsx").write_bytes(b"")
    return root


def qata_cov19(root: Path, count: int, first: int = 400) -> Path:
    for index in range(count):
        drawn = phantom(first + index)
        part = root / "QaTa-COV19-v2" / ("Train Set", "Test Set")[index % 2]
        name = f"sub-S{index // 2:05d}_ses-E{index}_run-1_bp-chest_vp-ap_dx.png"
        save(part / "Images" / name, drawn.image)
        save(part / "Ground-truths" / f"mask_{name}", infected(drawn))
    return root


def infected(drawn: Phantom) -> NDArray[np.bool_]:
    """The lower half of the lung at the image's left."""
    mask = drawn.image_left_lung("lung_field").copy()
    mask[: SIDE // 2] = False
    return mask


def pneumothorax(root: Path, count: int, first: int = 500) -> Path:
    base = root / "siim-acr-pneumothorax"
    for index in range(count):
        drawn, name = phantom(first + index), f"{index}_train_{index % 2}_.png"
        save(base / "png_images" / name, drawn.image)
        save(base / "png_masks" / name, infected(drawn) & bool(index % 2))
    (base / "stage_1_train_images.csv").write_text("new_filename,ImageId,has_pneumo\n")
    return root


def covid_qu_ex(root: Path, count: int, first: int = 600) -> Path:
    """Every other X-ray is in the infection part too."""
    for index in range(count):
        drawn, name = phantom(first + index), f"covid_{index}.png"
        split = ("Train", "Val", "Test")[index % 3]
        for part in ("Lung Segmentation Data", "Infection Segmentation Data"):
            if part.startswith("Infection") and index % 2:
                continue
            folder = root / part / part / split / "COVID-19"
            save(folder / "images" / name, drawn.image)
            save(folder / "lung masks" / name, drawn.mask("lung_field"))
            if part.startswith("Infection"):
                save(folder / "infection masks" / name, infected(drawn))
    return root


def darwin(root: Path, count: int, first: int = 700) -> Path:
    """Rectangles for lungs; generations take turns, the last image is a lateral view."""
    for index in range(count):
        name = f"person{index}_virus_{index}.jpeg"
        save(root / "images" / name, phantom(first + index).image)
        boxes = [] if index == count - 1 else [(10, 20, 40, 80), (56, 20, 86, 80)]
        annotate = darwin_v2 if index % 2 else darwin_v1
        path = root / "annotations" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(annotate(name, boxes)))
    (root / "dataset.json").write_text('{"classes": []}')
    return root


def darwin_v1(name: str, boxes: list[tuple[int, int, int, int]]) -> dict[str, object]:
    lungs = [{"name": "Lung", "polygon": {"path": _corners(box)}} for box in boxes]
    image = {"filename": name, "original_filename": name, "width": SIDE, "height": SIDE}
    return {"image": image, "annotations": [*lungs, {"name": "Male", "tag": {}}]}


def darwin_v2(name: str, boxes: list[tuple[int, int, int, int]]) -> dict[str, object]:
    lungs = [{"name": "Lung", "polygon": {"paths": [_corners(box)]}} for box in boxes]
    item = {"name": name, "path": "/", "slots": [{"width": SIDE, "height": SIDE}]}
    return {"version": "2.0", "item": item, "annotations": lungs}


def _corners(box: tuple[int, int, int, int]) -> list[dict[str, float]]:
    x0, y0, x1, y1 = box
    return [{"x": x, "y": y} for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))]


def letter(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A copy with a letter burnt in."""
    image = Image.fromarray(pixels)
    ImageDraw.Draw(image).text((4, 4), "R", fill=255)
    return np.asarray(image)
