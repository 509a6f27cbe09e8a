"""Chest X-ray Images with Pneumothorax Masks: ``png_images`` and ``png_masks``, same names.

Masks show the pneumothorax, not lungs; those of X-rays without one are black. The files keep no
sign of the patient.
"""

from __future__ import annotations

from pathlib import Path

from training.prepare.pair import (
    Found,
    MaskFiles,
    PictureFile,
    Problem,
    RawPair,
    folders_named,
    found,
    image_files,
    matched,
)

SOURCE = "pneumothorax"


def find(root: Path) -> Found:
    """Find images and pneumothorax masks below a folder.

    Raises:
        DataError: The folder holds neither.
    """
    pairs: list[RawPair] = []
    problems: list[Problem] = []
    for images in folders_named(root, "png_images"):
        pictures, masks = image_files(images), image_files(images.parent / "png_masks")
        both, unpaired = matched(SOURCE, pictures, masks)
        problems += unpaired
        pairs += [
            RawPair(
                SOURCE, stem, PictureFile(pictures[stem]), MaskFiles((masks[stem],)),
                structure="pneumothorax", convention=None,
            )
            for stem in both
        ]  # fmt: skip
    return found(SOURCE, root, "png_images beside png_masks", pairs, problems)
