"""Shenzhen: ``CXR_png`` of the National Library of Medicine, masks published separately.

Masks are ``mask/CHNCXR_0001_0_mask.png`` and exist for 566 of the 662 X-rays, so the rest is
reported as unpaired.
"""

from __future__ import annotations

from pathlib import Path

from training.prepare.pair import (
    Found,
    MaskFiles,
    PictureFile,
    RawPair,
    folders_named,
    found,
    image_files,
    matched,
)

SOURCE = "shenzhen"


def find(root: Path) -> Found:
    """Find the X-rays and masks below a folder.

    Raises:
        DataError: The folder holds neither.
    """
    pictures = {
        stem: path
        for folder in folders_named(root, "CXR_png")
        for stem, path in image_files(folder).items()
    }
    masks = {
        stem.removesuffix("_mask"): path
        for folder in folders_named(root, "mask", "masks")
        for stem, path in image_files(folder).items()
    }
    both, problems = matched(SOURCE, pictures, masks)
    pairs = [
        RawPair(
            SOURCE, stem, PictureFile(pictures[stem]), MaskFiles((masks[stem],)),
            patient="shenzhen_" + "_".join(stem.split("_")[:2]),
        )
        for stem in both
    ]  # fmt: skip
    return found(SOURCE, root, "CXR_png beside mask/*_mask.png", pairs, problems)
