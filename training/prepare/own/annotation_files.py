"""Masks in the formats of annotation tools: label maps, NIfTI, COCO and LabelMe."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from model_store.pictures.mask_reading import inside_of, read_levels
from model_store.pictures.orientation import UPRIGHT, Orientation
from model_store.pictures.picture_errors import PictureError
from model_store.pictures.picture_reading import read_orientation
from training.errors import DataError
from training.prepare.own.labels import Labels, Part, joined, lungs_of
from training.prepare.pixels import PixelError, read_grey

NIFTI_SUFFIXES = (".nii", ".nii.gz")

_FEW_LABELS = 16


class Annotation(Protocol):
    """The annotation of one X-ray."""

    @property
    def path(self) -> Path:
        """The file."""

    def parts(self) -> Mapping[Part, NDArray[np.bool_]]:
        """Return the mask of each part, bool (H, W); raise `PixelError` if it cannot be read."""


@dataclass(frozen=True)
class XrayOnDisk:
    """An X-ray in any format that the service reads; 16 bits are kept."""

    path: Path

    def read(self) -> NDArray[np.integer]:
        """Return grey values, upright, uint8 or uint16 (H, W)."""
        return _grey_of_nifti(self.path) if self._is_nifti else read_grey(self.path)

    def orientation(self) -> Orientation:
        """Return how to turn the annotated pixels upright."""
        if self._is_nifti:
            return UPRIGHT
        try:
            return read_orientation(self.path.read_bytes())
        except (OSError, PictureError) as error:
            raise PixelError(f"its X-ray cannot be read: {error}") from error

    @property
    def _is_nifti(self) -> bool:
        return self.path.name.lower().endswith(NIFTI_SUFFIXES)


@dataclass(frozen=True)
class LungsOf:
    """The lungs of an annotation, as a mask for `training.prepare.build_dataset`."""

    annotation: Annotation
    xray: XrayOnDisk

    @property
    def path(self) -> Path:
        """The file."""
        return self.annotation.path

    def read(self) -> NDArray[np.bool_]:
        """Return both lungs, upright, bool (H, W)."""
        return self.xray.orientation().apply(lungs_of(self.annotation.parts()))

    def read_heart(self) -> NDArray[np.bool_] | None:
        """Return the heart, upright, bool (H, W); None if it is not annotated."""
        heart = self.annotation.parts().get("heart")
        return None if heart is None else self.xray.orientation().apply(heart)


@dataclass(frozen=True)
class MaskPicture:
    """A mask or a label map in a picture file."""

    path: Path
    labels: Labels
    threshold: float | None = None

    def parts(self) -> Mapping[Part, NDArray[np.bool_]]:
        """Return its parts; a picture of two levels, or a soft one, is both lungs."""
        try:
            levels = read_levels(self.path.read_bytes())
            is_soft = self.threshold is not None
            if self.labels.numbers or (not is_soft and 2 < len(np.unique(levels)) <= _FEW_LABELS):
                return self.labels.of_map(levels)
            return {"lungs": inside_of(levels, threshold=self.threshold, may_be_empty=True)}
        except OSError as error:
            raise PixelError(f"cannot be read: {error.strerror}") from error
        except PictureError as error:
            raise PixelError(error.detail) from error


@dataclass(frozen=True)
class NiftiMask:
    """A mask or a label map in a NIfTI file, as written by ITK-SNAP and 3D Slicer."""

    path: Path
    labels: Labels

    def parts(self) -> Mapping[Part, NDArray[np.bool_]]:
        """Return its parts; a single value beside 0 means both lungs."""
        values = read_nifti(self.path)
        whole = np.rint(values).astype(np.int64)
        if not np.array_equal(whole, values):
            raise PixelError("its values are not whole numbers, so it is not a label map")
        return self.labels.of_map(whole)


def read_nifti(path: Path) -> NDArray[Any]:
    """Read the one slice of a NIfTI file as rows and columns, (H, W).

    ITK writes a picture's columns along the first axis towards the patient's left, and its rows
    along the second towards the back. Other axes do not tell which way up the X-ray is.

    Raises:
        PixelError: It cannot be read, has several slices, or other axes.
    """
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    try:
        image: Any = nibabel.load(path)
        values = np.asarray(image.dataobj)
    except (OSError, ValueError, EOFError, ImageFileError) as error:
        raise PixelError(f"cannot be read: {error}") from error
    plane = values.squeeze()
    if plane.ndim != 2:
        raise PixelError(f"has the shape {values.shape}; an X-ray is one slice")
    axes = image.affine[:2, :2]
    if not (axes[0, 0] < 0 and axes[1, 1] < 0 and axes[0, 1] == axes[1, 0] == 0):
        raise PixelError(
            "its axes do not run to the patient's left and back, as ITK-SNAP and 3D Slicer write "
            "pictures. Which way up the X-ray is would be a guess"
        )
    return np.ascontiguousarray(plane.T)


def _grey_of_nifti(path: Path) -> NDArray[np.integer]:
    values = read_nifti(path)
    whole = np.rint(values)
    if not np.array_equal(whole, values) or whole.min() < 0 or whole.max() > 65535:
        raise PixelError("its values are not whole numbers of 0 to 65535")
    return np.asarray(whole, np.uint16 if whole.max() > 255 else np.uint8)


@dataclass(frozen=True)
class LabelMeShapes:
    """Polygons of LabelMe."""

    path: Path
    labels: Labels

    def parts(self) -> Mapping[Part, NDArray[np.bool_]]:
        """Return its parts, each the union of its polygons."""
        try:
            values = json.loads(self.path.read_text(encoding="utf-8"))
            size = (int(values["imageWidth"]), int(values["imageHeight"]))
            found = [
                (self.labels.of_name(shape["label"]), _filled(shape, size))
                for shape in values["shapes"]
            ]
        except (OSError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, PixelError):
                raise
            raise PixelError(f"is not a LabelMe annotation: {error!r}") from error
        return joined(found)


def _filled(shape: Mapping[str, Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    kind = shape.get("shape_type", "polygon")
    points = [(float(x), float(y)) for x, y in shape["points"]]
    if kind != "polygon" or len(points) < 3:
        raise PixelError(f"has a {kind} of {len(points)} points; lungs are polygons")
    picture = Image.new("1", size)
    ImageDraw.Draw(picture).polygon(points, fill=1)
    return np.asarray(picture)


@dataclass(frozen=True)
class CocoShapes:
    """Polygons or run lengths of one X-ray in a COCO file."""

    path: Path
    labels: Labels
    height: int
    width: int
    shapes: tuple[tuple[str, Any], ...]

    def parts(self) -> Mapping[Part, NDArray[np.bool_]]:
        """Return its parts, each the union of its shapes."""
        return joined(
            [(self.labels.of_name(name), self._mask(shape)) for name, shape in self.shapes]
        )

    def _mask(self, shape: Any) -> NDArray[np.bool_]:
        from pycocotools import mask

        try:
            if isinstance(shape, list):
                runs = mask.merge(mask.frPyObjects(shape, self.height, self.width))
            elif isinstance(shape["counts"], list):
                runs = mask.frPyObjects(shape, self.height, self.width)
            else:
                runs = shape
            return np.asarray(mask.decode(runs)).astype(bool)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise PixelError(f"has a shape that cannot be read: {error!r}") from error


def read_coco(path: Path, labels: Labels) -> dict[str, CocoShapes]:
    """Return the annotations of a COCO file, by the name of the X-ray's file without extension.

    Raises:
        DataError: It is not a COCO file.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        names = {entry["id"]: str(entry["name"]) for entry in values["categories"]}
        shapes: dict[int, list[tuple[str, Any]]] = {}
        for entry in values["annotations"]:
            shape = (names[entry["category_id"]], entry["segmentation"])
            shapes.setdefault(entry["image_id"], []).append(shape)
        return {
            Path(image["file_name"]).stem: CocoShapes(
                path, labels, int(image["height"]), int(image["width"]), tuple(shapes[image["id"]])
            )
            for image in values["images"]
            if image["id"] in shapes
        }
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is not a COCO file: {error!r}") from error


def is_coco(path: Path) -> bool:
    """Tell whether a JSON file looks like COCO's; one that cannot be read does not."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and {"images", "annotations", "categories"} <= set(values)


def stem_of(path: Path) -> str:
    """Return a file's name without extension; ``.nii.gz`` is one extension."""
    name = path.name
    for suffix in NIFTI_SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return path.stem


def annotations_of(
    root: Path,
    masks: Path,
    pictures: Mapping[str, Path],
    labels: Labels,
    threshold: float | None = None,
) -> dict[str, Annotation]:
    """Find annotations, by the name of the X-ray's file without extension.

    Args:
        root: Folder of the data set, which may have a COCO file.
        masks: Folder of masks, if any; LabelMe's files may be beside the X-rays.
        pictures: The X-rays by name.
        labels: Meaning of labels.
        threshold: For soft masks in pictures, the share of the highest value that is inside.

    Raises:
        DataError: An X-ray is annotated in two files.
    """
    found: dict[str, Annotation] = {}
    for path in _json_files(root, masks, pictures):
        if is_coco(path):
            for name, shapes in read_coco(path, labels).items():
                _add(found, name, shapes)
        elif path.stem in pictures:
            _add(found, path.stem, LabelMeShapes(path, labels))
    for path in sorted(masks.iterdir()) if masks.is_dir() else ():
        if path.name.startswith(".") or not path.is_file() or path.suffix.lower() == ".json":
            continue
        name = _name_of_xray(stem_of(path), pictures)
        if path.name.lower().endswith(NIFTI_SUFFIXES):
            _add(found, name, NiftiMask(path, labels))
        else:
            _add(found, name, MaskPicture(path, labels, threshold))
    return found


def _json_files(root: Path, masks: Path, pictures: Mapping[str, Path]) -> Sequence[Path]:
    folders = {root, masks, *(path.parent for path in pictures.values())}
    return sorted(path for folder in folders if folder.is_dir() for path in folder.glob("*.json"))


def _name_of_xray(stem: str, pictures: Mapping[str, Path]) -> str:
    """Return the X-ray of a mask's name: the same name, or without a usual suffix."""
    for plain in (stem, stem.removesuffix("_mask"), stem.removeprefix("mask_"),
                  stem.removesuffix("-mask"), stem.removesuffix("_seg")):  # fmt: skip
        if plain in pictures:
            return plain
    return stem


def _add(found: dict[str, Annotation], name: str, annotation: Annotation) -> None:
    if name in found:
        raise DataError(f"{name} is annotated in {found[name].path} and in {annotation.path}")
    found[name] = annotation
