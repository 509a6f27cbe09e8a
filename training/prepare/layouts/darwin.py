"""V7's Darwin JSON: an annotation file per image, lungs as polygons (``whole_lung``).

Both generations are read: ``image.filename`` with ``polygon.path``, and version 2's ``item.name``
with ``polygon.paths``. Images without a polygon of the class ``Lung`` (lateral views, slices of a
CT) are reported as X-rays without a mask.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from training.prepare.pair import (
    IMAGE_SUFFIXES,
    Found,
    PictureFile,
    Problem,
    RawPair,
    found,
)
from training.prepare.patients import patient_of
from training.prepare.pixels import PixelError

SOURCE = "darwin"
LUNG_CLASS = "lung"
_LARGEST_SIDE = 20_000

Ring = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Polygons:
    """Lungs as closed rings; within one annotation a ring inside another cuts a hole.

    Attributes:
        path: The annotation file.
        width: Width of the image that was annotated, in pixels.
    """

    path: Path
    width: int
    height: int
    annotations: tuple[tuple[Ring, ...], ...]

    def read(self) -> NDArray[np.bool_]:
        """Return the union of the annotations, bool (H, W)."""
        union = np.zeros((self.height, self.width), dtype=bool)
        for rings in self.annotations:
            shape = np.zeros_like(union)
            for ring in rings:
                canvas = Image.new("1", (self.width, self.height))
                # Pillow fills pixels by their index; a pixel's centre is half a pixel further.
                ImageDraw.Draw(canvas).polygon([(x - 0.5, y - 0.5) for x, y in ring], fill=1)
                shape ^= np.asarray(canvas)
            union |= shape
        return union


def find(root: Path) -> Found:
    """Find annotation files and their images below a folder.

    Raises:
        DataError: The folder holds no annotation file.
    """
    images = {
        path.name: path
        for path in sorted(root.rglob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    }
    pairs: dict[str, RawPair] = {}
    problems: list[Problem] = []
    annotated: set[str] = set()
    for path in sorted(root.rglob("*.json")):
        try:
            content = _annotation(path)
            if content is None:
                continue
            file_name, polygons = content
            annotated.add(file_name)
            if file_name not in images:
                raise PixelError(f"its image {file_name} is not there")
        except PixelError as error:
            problems.append(Problem(SOURCE, path, str(error)))
            continue
        picture = images[file_name]
        if not polygons.annotations:
            problems.append(Problem(SOURCE, picture, "X-ray without a mask: no Lung polygon"))
            continue
        if picture.stem in pairs:
            problems.append(Problem(SOURCE, path, f"{file_name} is annotated twice"))
            continue
        pairs[picture.stem] = RawPair(
            SOURCE, picture.stem, PictureFile(picture), polygons, convention="whole_lung",
            patient=patient_of(picture.stem),
        )  # fmt: skip
    problems += [
        Problem(SOURCE, images[name], "X-ray without an annotation file")
        for name in sorted(set(images) - annotated)
    ]
    return found(SOURCE, root, "annotations/*.json beside images", pairs.values(), problems)


def _annotation(path: Path) -> tuple[str, Polygons] | None:
    """Read an annotation file: name of its image, and lungs; None for JSON of another kind."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise PixelError(f"is not JSON: {error}") from error
    if not isinstance(content, dict) or "annotations" not in content:
        return None
    try:
        name, width, height = _image(content)
        lungs = tuple(
            _rings(annotation)
            for annotation in content["annotations"]
            if str(annotation["name"]).lower() == LUNG_CLASS and _has_shape(annotation)
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise PixelError(f"is not a Darwin annotation: {error!r}") from error
    return name, Polygons(path, width, height, lungs)


def _image(content: Mapping[str, Any]) -> tuple[str, int, int]:
    if "item" in content:
        name, place = content["item"]["name"], content["item"]["slots"][0]
    else:
        name, place = content["image"]["filename"], content["image"]
    width, height = int(place["width"]), int(place["height"])
    if not (0 < width <= _LARGEST_SIDE and 0 < height <= _LARGEST_SIDE):
        raise ValueError(f"an image of {width} x {height} pixels")
    return str(name), width, height


def _has_shape(annotation: Mapping[str, Any]) -> bool:
    return "polygon" in annotation or "complex_polygon" in annotation


def _rings(annotation: Mapping[str, Any]) -> tuple[Ring, ...]:
    """Read the rings of one annotation, of either generation."""
    shape = annotation.get("polygon") or annotation["complex_polygon"]
    rings = shape["paths"] if "paths" in shape else shape["path"]
    if rings and isinstance(rings[0], dict):
        rings = [rings]
    read = tuple(tuple((float(p["x"]), float(p["y"])) for p in ring) for ring in rings)
    if not read or min(len(ring) for ring in read) < 3:
        raise ValueError("a polygon of fewer than three points")
    return read
