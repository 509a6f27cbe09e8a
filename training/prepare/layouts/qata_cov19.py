"""QaTa-COV19: ``Images`` and ``Ground-truths``, whose masks show infected regions, not lungs.

The mask of ``NAME.png`` is ``mask_NAME.png``. Version 2 has a ``Train Set`` and a ``Test Set``;
both are used and divided anew. Control groups have no masks; they lie in folders of other names.
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

SOURCE = "qata_cov19"


def find(root: Path) -> Found:
    """Find images and infection masks below a folder.

    Raises:
        DataError: The folder holds neither.
    """
    pairs: list[RawPair] = []
    problems: list[Problem] = []
    for truths in folders_named(root, "Ground-truths"):
        pictures = image_files(truths.parent / "Images")
        masks = {stem.removeprefix("mask_"): path for stem, path in image_files(truths).items()}
        both, unpaired = matched(SOURCE, pictures, masks)
        problems += unpaired
        pairs += [
            RawPair(
                SOURCE, stem, PictureFile(pictures[stem]), MaskFiles((masks[stem],)),
                structure="infection", convention=None, patient=patient_of(stem),
            )
            for stem in both
        ]  # fmt: skip
    return found(SOURCE, root, "Images beside Ground-truths/mask_*.png", pairs, problems)
