"""COVID-19 Radiography Database: a folder per class, each with ``images`` and ``masks``.

Images have 299 x 299 pixels, masks 256 x 256 of the same view.
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
from training.prepare.patients import patient_of

SOURCE = "covid19_radiography"


def find(root: Path) -> Found:
    """Find images and masks of every class below a folder.

    Raises:
        DataError: The folder holds neither.
    """
    pairs: list[RawPair] = []
    problems: list[Problem] = []
    for images in folders_named(root, "images"):
        pictures, masks = image_files(images), image_files(images.parent / "masks")
        both, unpaired = matched(SOURCE, pictures, masks)
        problems += unpaired
        pairs += [
            RawPair(
                SOURCE, stem, PictureFile(pictures[stem]), MaskFiles((masks[stem],)),
                patient=patient_of(stem),
            )
            for stem in both
        ]  # fmt: skip
    return found(SOURCE, root, "CLASS/{images,masks}", pairs, problems)
