"""Check an answer before it is sent, and warn if its masks do not look like lungs.

The model gives a mask for every request, even for a lateral X-ray, a hand, or a box over the
abdomen. These checks cannot prove that a mask is right. They find masks that are obviously wrong,
so that no such mask is given silently.

The limits come from 680 human masks of `train` and `val` (four sources, both conventions). The
lungs fill 0.34 to 0.69 of the tight box around both (1st and 99th percentile 0.36 and 0.67) and
0.10 to 0.61 of the whole image (0.11 and 0.56). In the same X-rays at most 0.5 % of the pixels have
the brightest value, and the 1st and 99th percentile of grey are at least 49 of 255 levels apart.
The limits below allow for boxes of a single lung, loose boxes and unusual patients, because nobody
reads a warning that is too frequent.

A box whose edge cuts through a lung is the hardest case: the lung may be segmented, left out, or
segmented in pieces. The limits for that were set on boxes of `val` whose edges had moved by up to
20 % of their side. `test` was not used: there
`python -m benchmarks.quality.sloppy_boxes --split test --draws 3` counts how many poor masks such
boxes give, and how many get a warning.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.boxes import Box
from model_store.prediction import MaskPrediction
from service.imaging.mask_grid import grid_of
from service.imaging.response_warnings import ImageWarning, WarningCode
from service.imaging.shape_checks import check_lung_shapes

MINIMUM_BOX_FRACTION = 0.05
"""Least share of the box that a lung fills: half of the smallest whole-image fraction, 0.10."""
MAXIMUM_BOX_FRACTION = 0.95
"""Largest share of the box: one lung fills its box to about 0.8; a mask that fills it wholly copies
it."""
MAXIMUM_IMAGE_FRACTION = 0.75
"""Largest share of the image: the most was 0.61, on an X-ray cropped to the lungs."""
MAXIMUM_OUTSIDE_FRACTION = 0.25
"""Largest share outside the box: a jittered or tight box cuts off a few per cent; a quarter is
another structure."""
ROOM_FOR_A_LUNG = 0.45
"""Free width between mask and a box's edge inside the picture, as a share of the mask's width. On
`val`, with edges moved by 20 %, it was 0.52 or more when one of two lungs was left out, and at most
0.29 beside both. In a tight box around one lung it is at most 0.36, in half of the picture 0.33 at
the 95th percentile (`python -m benchmarks.quality.sloppy_boxes`)."""
ROOM_AT_THE_PICTURES_EDGE = 1.0
"""The same if the box ends at the picture's edge. In half of the picture an arm takes 0.73 at the
95th percentile; another lung and the mediastinum take more than one width."""
INSIDE_THE_PICTURE = 0.01
"""Share of the picture's width within which a box's edge counts as the picture's."""
MAIN_COLUMN_SHARE = 0.25
"""Least share of the fullest column at which a column counts as lung, so that specks do not
count."""
MAXIMUM_RUNS_PER_COLUMN = 1.5
"""Most runs of mask per column: human masks have at most 1.19, good masks of tight boxes 1.42,
masks in pieces 1.6 to 3.1."""
_EMPTY_SENTENCE = {
    True: "No lung was found: the mask is empty.",
    False: "No lung was found: the mask is empty. A box means the lungs of which half or more lies "
    "in it; clip=true gives the part of the lungs that lies in the box.",
}
WHOLE_IMAGE_SHARE = 0.98
"""Share of the image at which a box counts as none, because clients send the image's size for
"all"."""
MINIMUM_SCORE = 0.75
"""Least score, the model's own estimate of intersection over union; 0.75 is a Dice of 0.86, below
which users would redraw the mask."""
MINIMUM_CONFIDENCE = 0.94
"""Least soft Dice confidence. None of the 178 X-rays of `val` is below it with its own box and
convention. Children are below it in 18 % of cases in a convention that has no masks of children
(`python -m benchmarks.quality.undecided_masks`)."""
MAXIMUM_SATURATED_FRACTION = 0.25
"""Largest share of pixels at the brightest value present; the data have at most 0.005."""
MINIMUM_CONTRAST = 0.02
"""Least ratio of the spread of the 1st to 99th percentile to the range of the values; the data have
at least 0.19."""


def check_image(counts: NDArray[np.int64]) -> tuple[ImageWarning, ...]:
    """Return warnings about an X-ray with too little content to segment.

    A constant image has no content. A burnt-out one has lost detail, or is inverted without stating
    it: then the black surroundings of an X-ray are white.

    Args:
        counts: pixels of each grey value, from `model_store.grey_levels`, (256,) or (65536,).
    """
    pixel_count = int(counts.sum())
    present = np.flatnonzero(counts)
    lowest, highest = int(present[0]), int(present[-1])
    cumulative = np.cumsum(counts)
    first, last = (int(np.searchsorted(cumulative, pixel_count * share)) for share in (0.01, 0.99))
    # 16-bit files often use 10 to 14 of their bits, so contrast is judged over the range in use.
    # But a range of a few levels is constant, whatever share of it the percentiles span.
    used_range = max(highest, 255 if counts.size == 256 else 1023)
    if highest == lowest or (last - first) < MINIMUM_CONTRAST * used_range:
        return (
            ImageWarning(
                WarningCode.CONSTANT_IMAGE,
                "The image has almost the same grey value everywhere; the mask means nothing.",
            ),
        )
    if counts[highest] > MAXIMUM_SATURATED_FRACTION * pixel_count:
        return (
            ImageWarning(
                WarningCode.SATURATED_IMAGE,
                "A large part of the image has the brightest value: it is over-exposed, has a "
                "white border, or is inverted. Look at the mask before using it.",
            ),
        )
    return ()


def check_mask(
    answer: MaskPrediction,
    pixels: NDArray[Any] | None = None,
    *,
    is_whole_image: bool = False,
) -> tuple[ImageWarning, ...]:
    """Return warnings about one mask.

    An empty mask, and one that misses its box, get only that warning, because the others would
    follow from it.

    Args:
        answer: the mask with its box, score and confidence.
        pixels: the X-ray, (H, W) uint8 or uint16; None omits the checks of grey values.
        is_whole_image: whether the caller gave no box, or a box that covers the image.
    """
    mask, box = answer.mask, answer.box
    is_whole_image = is_whole_image or covers_image(box, mask.shape)
    area_px = int(np.count_nonzero(mask))
    if area_px == 0:
        return (ImageWarning(WarningCode.EMPTY_MASK, _EMPTY_SENTENCE[is_whole_image]),)
    inside_px = int(np.count_nonzero(_region_of(mask, box)))
    if inside_px == 0:
        return (ImageWarning(WarningCode.MASK_MISSES_BOX, "The mask lies wholly outside its box."),)
    found: list[ImageWarning] = []
    if area_px - inside_px > MAXIMUM_OUTSIDE_FRACTION * area_px:
        found.append(
            ImageWarning(
                WarningCode.MASK_LEAVES_BOX,
                f"More than {MAXIMUM_OUTSIDE_FRACTION:.0%} of the mask lies outside its box: a box "
                "means whole lungs, of which half or more lies in it. clip=true cuts at the box.",
            )
        )
    found.extend(
        _check_area(area_px, inside_px, mask.size, box, is_whole_image)
        or _check_shape(mask, pixels, box, is_whole_image)
    )
    # Both also true of what is not a number.
    if not answer.confidence >= MINIMUM_CONFIDENCE:
        found.append(
            ImageWarning(
                WarningCode.UNDECIDED_MASK,
                "The model is unsure where much of the mask's border runs; look at it before "
                "using it.",
            )
        )
    if not answer.score >= MINIMUM_SCORE:
        found.append(
            ImageWarning(
                WarningCode.LOW_SCORE,
                f"The model expects a poor mask (score below {MINIMUM_SCORE}); look at it.",
            )
        )
    return tuple(found)


def _check_area(
    area_px: int, inside_px: int, image_px: int, box: Box, is_whole_image: bool
) -> list[ImageWarning]:
    box_px = (box[2] - box[0]) * (box[3] - box[1])
    box_fraction = inside_px / box_px
    place = "image" if is_whole_image else "box"
    if box_fraction < MINIMUM_BOX_FRACTION:
        return [
            ImageWarning(
                WarningCode.IMPLAUSIBLY_SMALL_MASK,
                f"The mask fills less than {MINIMUM_BOX_FRACTION:.0%} of its {place}, far less "
                "than lungs do.",
            )
        ]
    if box_fraction > MAXIMUM_BOX_FRACTION or area_px > MAXIMUM_IMAGE_FRACTION * image_px:
        return [
            ImageWarning(
                WarningCode.IMPLAUSIBLY_LARGE_MASK,
                f"The mask fills more of its {place} than lungs do.",
            )
        ]
    return []


def _check_shape(
    mask: NDArray[np.bool_], pixels: NDArray[Any] | None, box: Box, is_whole_image: bool
) -> list[ImageWarning]:
    found: list[ImageWarning] = []
    # Summing bytes is faster than counting along an axis.
    columns = np.add.reduce(mask.view(np.uint8), axis=0, dtype=np.uint32)
    main = np.flatnonzero(columns >= MAIN_COLUMN_SHARE * columns.max())
    first, last = max(float(main[0]), box[0]), min(float(main[-1] + 1), box[2])
    if not is_whole_image and _has_room_beside(first, last, box, mask.shape[1]):
        found.append(
            ImageWarning(
                WarningCode.NARROW_MASK,
                "The mask leaves much of its box's width empty: a lung may be missing, or the box "
                "is too wide.",
            )
        )
    # Every run of mask pixels down a column begins once.
    begins = np.count_nonzero(mask[0]) + np.count_nonzero(mask[1:] & ~mask[:-1])
    if begins > MAXIMUM_RUNS_PER_COLUMN * np.count_nonzero(columns):
        found.append(
            ImageWarning(
                WarningCode.FRAGMENTED_MASK,
                "The mask falls into pieces: the model is unsure what to segment. A box whose "
                "edge cuts through a lung can do this.",
            )
        )
    grid = grid_of(mask)
    if is_whole_image or len(grid.large_pieces) > 1:  # else a box of one lung, with its shape
        found.extend(check_lung_shapes(grid, pixels))
    return found


def _has_room_beside(first: float, last: float, box: Box, width: int) -> bool:
    """Return whether a box has room for another lung beside columns `first` to `last`."""
    margin = INSIDE_THE_PICTURE * width
    sides = ((first - box[0], box[0] > margin), (box[2] - last, box[2] < width - margin))
    return any(
        room >= (ROOM_FOR_A_LUNG if is_inside else ROOM_AT_THE_PICTURES_EDGE) * (last - first)
        for room, is_inside in sides
    )


def covers_image(box: Box, shape: tuple[int, ...]) -> bool:
    """Return whether a box covers at least 98 % of the image, and so counts as none.

    Args:
        box: half-open pixels.
        shape: height and width of the image.
    """
    return (box[2] - box[0]) * (box[3] - box[1]) >= WHOLE_IMAGE_SHARE * shape[0] * shape[1]


def _region_of(mask: NDArray[np.bool_], box: Box) -> NDArray[np.bool_]:
    """Return the pixels of the mask that the box touches, edges rounded outwards."""
    x0, y0, x1, y1 = box
    return mask[int(np.floor(y0)) : int(np.ceil(y1)), int(np.floor(x0)) : int(np.ceil(x1))]
