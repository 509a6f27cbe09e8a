"""Optional forms of a mask: polygons, the band around its border, its probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_store.postprocessing import MaskLogits
from service.imaging.answer_schema import Polygons, UncertaintyBand
from service.imaging.answered_masks import AnsweredMask
from service.imaging.opening import OpenedXray
from service.imaging.png_encoding import encode_png
from service.imaging.polygons import polygons_of
from service.imaging.segment_request import UNCERTAINTY_SHAPES, MaskShape
from service.imaging.uncertainty import Probabilities


@dataclass(frozen=True)
class FurtherShapes:
    """The requested forms; None for the others.

    Attributes:
        polygon: the mask as polygons.
        band: where its border may be.
        probability_png: its probabilities as a PNG file.
    """

    polygon: Polygons | None = None
    band: UncertaintyBand | None = None
    probability_png: bytes | None = None


def further_shapes(
    found: AnsweredMask, mask_logits: Sequence[MaskLogits], opened: OpenedXray
) -> FurtherShapes:
    """Return the further forms of one mask.

    Args:
        found: the mask, in the caller's pixels.
        mask_logits: the network's output, by boxes and then structures.
        opened: the X-ray with its request.
    """
    shapes = opened.request.shapes
    polygon = _polygons(found.mask) if MaskShape.POLYGON in shapes else None
    if not shapes & UNCERTAINTY_SHAPES:
        return FurtherShapes(polygon)
    of_structure = [one for one in mask_logits if one.structure == found.structure]
    orientation = opened.decoded.orientation
    probabilities = Probabilities(of_structure[found.box_index], opened.geometry)
    band = png = None
    if MaskShape.BAND in shapes:
        around = probabilities.band(orientation.apply(found.mask))
        band = UncertaintyBand(
            outer=_polygons(orientation.invert(around.outer)),
            inner=_polygons(orientation.invert(around.inner)),
            mean_px=_rounded(around.mean_px),
            p95_px=_rounded(around.p95_px),
        )
    if MaskShape.PROBABILITY in shapes:
        png = encode_png(np.ascontiguousarray(orientation.invert(probabilities.in_bytes())))
    return FurtherShapes(polygon, band, png)


def _polygons(mask: NDArray[np.bool_]) -> Polygons:
    return tuple(tuple(map(tuple, polygon)) for polygon in polygons_of(mask))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
