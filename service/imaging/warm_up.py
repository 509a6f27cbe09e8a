"""Work done once before the first caller, so that the first answer is as fast as others.

The libraries set up their tables when they are first used. It runs in the process that image
workers are forked from, where no thread may be left behind.
"""

from __future__ import annotations

import numpy as np

from model_store.boxes import Box
from model_store.grey_levels import grey_histogram
from model_store.pictures.picture_reading import read_picture
from model_store.postprocessing import MaskLogits, mask_from
from model_store.prediction import MaskPrediction, PredictionRequest
from model_store.preprocessing import prepare
from service.imaging.jpeg_encoding import encode_jpeg
from service.imaging.mask_checks import check_image, check_mask
from service.imaging.png_encoding import encode_png
from service.imaging.rendering import encode_mask_png, encode_rle, overlay_colours

SIDE_PX = 1024


def decode_and_render_once() -> None:
    """Decode a synthetic picture and render a synthetic mask, in the calling thread."""
    ramp = np.add.outer(np.arange(SIDE_PX), np.arange(SIDE_PX))
    pixels = read_picture(encode_png((ramp // 9).astype(np.uint8)), max_pixels=SIDE_PX**2).pixels
    mask = abs(ramp - SIDE_PX) < SIDE_PX // 4
    box: Box = (0.0, 0.0, float(SIDE_PX), float(SIDE_PX))
    histogram = grey_histogram(pixels)
    check_image(histogram)
    prepared = prepare(PredictionRequest(pixels), input_size=256, histogram=histogram)
    logits = np.zeros((64, 64), np.float32)
    mask_from(MaskLogits(prepared.boxes[0], logits, 1.0), prepared.geometry, 0.5)
    check_mask(MaskPrediction(box, mask, score=1.0, confidence=1.0), pixels)
    encode_mask_png(mask)
    encode_rle(mask)
    colours = overlay_colours(pixels, [mask], [box])
    encode_jpeg(colours)
    encode_png(colours[: SIDE_PX // 2])  # a large one would start a further thread
