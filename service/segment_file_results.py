"""The files that `service.segment_file` writes: mask, overlay and side-by-side figure."""

from __future__ import annotations

import os
import sys
import webbrowser
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_store.pictures.picture_reading import Picture
from model_store.prediction import PredictionRequest
from service.errors import InvalidField
from service.imaging.dicom_header import read_source_header
from service.imaging.dicom_object import NamedModel, SegmentationMethod
from service.imaging.dicom_segmentation import Segment, encode_dicom_segmentation
from service.imaging.png_encoding import encode_png
from service.imaging.rendering import draw_overlay, encode_mask_png, window_for_display

_GAP_PIXELS = 8  # black stripe between the two halves of the figure


@dataclass(frozen=True)
class ResultFiles:
    """Paths of results; None for results that were not requested.

    Attributes:
        image_path: the input X-ray, which must not be overwritten.
        mask_path: the mask, `.png` or `.dcm`.
        figure_path: X-ray and overlay side by side, PNG.
        overlay_path: the overlay, PNG.
    """

    image_path: Path
    mask_path: Path | None
    figure_path: Path | None
    overlay_path: Path | None


def check_result_paths(results: ResultFiles) -> None:
    """Refuse paths of a wrong kind of file, and the path of the X-ray itself.

    Args:
        results: files to write, and the X-ray's file.

    Raises:
        ValueError: a path is refused; the message is a sentence for the caller.
    """
    mask_path = results.mask_path
    if mask_path is not None and mask_path.suffix.lower() not in (".png", ".dcm"):
        raise ValueError("--output_mask_path must end in .png, or in .dcm for a DICOM image.")
    for path in (results.mask_path, results.figure_path, results.overlay_path):
        if path is not None and path.resolve() == results.image_path.resolve():
            raise ValueError("A result would overwrite the X-ray; choose another output path.")


def write_results(
    results: ResultFiles,
    request: PredictionRequest,
    image: Picture,
    mask: NDArray[np.bool_],
    info: NamedModel,
) -> dict[str, str]:
    """Write the requested results.

    Args:
        results: files to write, and the X-ray's file.
        request: the request, whose box is drawn into the overlay.
        image: the decoded X-ray.
        mask: (H, W) bool.
        info: the model, named in a DICOM segmentation.

    Returns:
        Path of each written file, by kind.

    Raises:
        OSError: a file cannot be written.
        InvalidField: a `.dcm` mask was requested, but the X-ray is not DICOM or lacks identifiers.
    """
    written: dict[str, str] = {}
    if results.mask_path is not None:
        mask_bytes = _mask_bytes(results.mask_path, request, image, mask, info)
        written["mask"] = _write(results.mask_path, mask_bytes)
    if results.overlay_path is None and results.figure_path is None:
        return written
    boxes = [image.orientation.invert_box(box, image.width, image.height) for box in request.boxes]
    overlay = draw_overlay(image.pixels, [mask], boxes)  # (H, W, 3)
    if results.overlay_path is not None:
        written["overlay"] = _write(results.overlay_path, encode_png(overlay))
    if results.figure_path is not None:
        written["figure"] = _write(results.figure_path, encode_png(_side_by_side(image, overlay)))
        _show(results.figure_path)
    return written


def _mask_bytes(
    path: Path,
    request: PredictionRequest,
    image: Picture,
    mask: NDArray[np.bool_],
    info: NamedModel,
) -> bytes:
    if path.suffix.lower() != ".dcm":
        return encode_mask_png(mask)
    if image.dicom is None:
        raise InvalidField("A .dcm mask needs a DICOM image to refer to; choose a .png path.")
    method = SegmentationMethod(
        info, request.convention, request.threshold, is_prompted=bool(request.boxes)
    )
    return encode_dicom_segmentation(read_source_header(image.dicom), [Segment(mask)], method)


def _side_by_side(image: Picture, overlay: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return (H, 2 W + gap, 3): the X-ray on the left, the overlay on the right."""
    plain = np.repeat(window_for_display(image.pixels)[..., np.newaxis], 3, axis=2)
    gap = np.zeros((image.height, _GAP_PIXELS, 3), dtype=np.uint8)
    return np.concatenate([plain, gap, overlay], axis=1)


def _write(path: Path, data: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return str(path)


def _show(path: Path) -> None:
    """Print the picture's path, and open it if there is a display."""
    print(f"segment_file: figure written to {path}", file=sys.stderr)
    has_display = sys.platform in ("win32", "darwin") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    if has_display:
        webbrowser.open(path.resolve().as_uri())
