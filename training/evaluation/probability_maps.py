"""Probabilities of a mask at every pixel of the X-ray, and comparisons of two models' maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model_store.conventions import token_of
from model_store.geometry import Box, InputGeometry
from model_store.logit_resampling import logits_to_image
from model_store.sam import PromptableSam
from training.data.dataset import DataRow, LabelledXray, load_xray
from training.evaluation.mask_difference import MaskDifference
from training.evaluation.scores import prompt_boxes
from training.evaluation.similarity import MapSimilarity, map_similarity
from training.evaluation.statistics import Summary
from training.evaluation.watching import Watch, unwatched


@torch.inference_mode()
def probability_map(
    model: PromptableSam, xray: LabelledXray, box: Box, input_size: int
) -> NDArray[np.float32]:
    """Return the probability of lung at each pixel of an X-ray, float32 (H, W).

    Pixels above 0.5 are the mask that a `Predictor` predicts.

    Args:
        model: Model with or without adapters, fake quantization or integers.
        xray: The X-ray; its convention chooses the mask token.
        box: The prompt, in pixels of the X-ray.
        input_size: Side of the model's input, in pixels.
    """
    device = next(model.buffers()).device
    height, width = xray.image.shape
    geometry = InputGeometry(width, height, input_size)
    pixels = torch.from_numpy(geometry.image_to_input(xray.image)).to(device)
    valid = torch.from_numpy(geometry.valid_region()).to(device)
    prompt = torch.tensor([geometry.box_to_input(box)], device=device)
    image_index = torch.zeros(1, dtype=torch.int64, device=device)
    logits, _ = model(model.normalize(pixels[None, None], valid[None, None]), prompt, image_index)
    full = logits_to_image(logits[0, token_of(xray.convention)].float(), geometry)
    probabilities: NDArray[np.float32] = torch.sigmoid(full).cpu().numpy()
    return probabilities


def compare_maps(
    first: PromptableSam,
    second: PromptableSam,
    rows: Sequence[DataRow],
    input_size: int,
    difference: MaskDifference | None = None,
    watch: Watch = unwatched,
) -> dict[str, list[MapSimilarity]]:
    """Compare two models' maps of every X-ray with its own box, per data set.

    Args:
        first: The evaluated model.
        second: The other model.
        rows: The X-rays.
        input_size: Side of the models' input, in pixels.
        difference: If given, also gets the differences of the masks.
        watch: Shows the progress.
    """
    found: dict[str, list[MapSimilarity]] = {}
    for row in watch(rows, "probability maps"):
        xray = load_xray(row)
        box = prompt_boxes(xray)[0]
        maps = [probability_map(model, xray, box, input_size) for model in (first, second)]
        found.setdefault(row.source, []).append(map_similarity(*maps))
        if difference is not None:
            difference.add(maps[0] > 0.5, maps[1] > 0.5, xray.mask, box)
    return found


def summarise_maps(found: dict[str, list[MapSimilarity]]) -> dict[str, dict[str, Any]]:
    """Return ``{source: {"ssim_whole" or "ssim_band": summary}}``."""
    return {
        source: {
            "ssim_whole": asdict(Summary.of([s.whole for s in similarities])),
            "ssim_band": asdict(Summary.of([s.band for s in similarities])),
        }
        for source, similarities in sorted(found.items())
    }
