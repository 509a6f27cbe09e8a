"""Gradient accumulation: a step's batch in parts, so that a large batch fits into small memory.

All parts of the loss are means over prompts, and each X-ray has the same number of prompts. The
gradients of the parts, each weighted by its share of the X-rays, therefore add up to the gradient
of the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from training.data.batches import TrainingBatch


def parts_of(batch: TrainingBatch, count: int) -> Iterator[tuple[TrainingBatch, float]]:
    """Yield up to ``count`` parts of whole X-rays and each one's share of the batch.

    Args:
        batch: A step's batch of B X-rays.
        count: Number of parts; with fewer X-rays than that, one part for each.
    """
    images = len(batch.pixels)
    prompts_per_image = len(batch.boxes) // images
    count = min(count, images)
    bounds = [images * part // count for part in range(count + 1)]
    for start, end in pairwise(bounds):
        prompts = slice(start * prompts_per_image, end * prompts_per_image)
        part = TrainingBatch(
            pixels=batch.pixels[start:end],
            valid=batch.valid[start:end],
            boxes=batch.boxes[prompts],
            image_index=batch.image_index[prompts] - start,
            tokens=batch.tokens[prompts],
            target=batch.target[prompts],
            folds=batch.folds[prompts],
            further=batch.further[start:end],
            further_meant=batch.further_meant[prompts],
            further_known=batch.further_known[prompts],
        )
        yield part, (end - start) / images
