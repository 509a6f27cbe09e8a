"""Montgomery County: ``CXR_png`` and ``ManualMask/{leftMask,rightMask}``, one X-ray per patient."""

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
    matched_with_both_lungs,
)

SOURCE = "montgomery"
SPACING_MM = 0.0875


def find(root: Path) -> Found:
    """Find the X-rays and masks below a folder.

    Raises:
        DataError: The folder holds neither.
    """
    pictures = _images(root, "CXR_png")
    left, right = _images(root, "leftMask"), _images(root, "rightMask")
    both, problems = matched_with_both_lungs(SOURCE, pictures, left, right)
    pairs = [
        RawPair(
            SOURCE, stem, PictureFile(pictures[stem]), MaskFiles((left[stem], right[stem])),
            # MCUCXR_0001_0: the last digit is the finding, 1 for tuberculosis.
            patient="montgomery_" + "_".join(stem.split("_")[:2]), spacing_mm=SPACING_MM,
        )
        for stem in both
    ]  # fmt: skip
    return found(SOURCE, root, "CXR_png beside ManualMask/{leftMask,rightMask}", pairs, problems)


def _images(root: Path, name: str) -> dict[str, Path]:
    return {
        stem: path
        for folder in folders_named(root, name)
        for stem, path in image_files(folder).items()
    }
