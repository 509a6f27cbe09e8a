"""The common layout of Kaggle's sets: a folder of masks beside the folder of X-rays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from model_store.conventions import Convention
from training.data.dataset import Structure
from training.prepare.pair import (
    SCALED_MASK,
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


@dataclass(frozen=True)
class SiblingFolders:
    """A source whose masks are in a folder beside its X-rays, in files of the same names.

    Attributes:
        source: Key of the source.
        images: Name of the folders of X-rays.
        masks: Name of the folders of masks.
        mask_prefix: Prefix of a mask's name before its X-ray's name.
        structure: What the masks show.
        convention: How lungs were annotated; None for another structure.
        has_controls: Whether folders of X-rays without a folder of masks are expected.
    """

    source: str
    images: str
    masks: str
    mask_prefix: str = ""
    structure: Structure = "lungs"
    convention: Convention | None = "lung_field"
    has_controls: bool = False

    def find(self, root: Path) -> Found:
        """Find X-rays and masks below a folder.

        Raises:
            DataError: The folder holds neither.
        """
        pairs: list[RawPair] = []
        problems: list[Problem] = []
        for folder in folders_named(root, self.masks if self.has_controls else self.images):
            pictures = image_files(folder.parent / self.images)
            masks = {
                stem.removeprefix(self.mask_prefix): path
                for stem, path in image_files(folder.parent / self.masks).items()
            }
            both, unpaired = matched(self.source, pictures, masks)
            problems += unpaired
            pairs += [self._pair(stem, pictures[stem], masks[stem]) for stem in both]
        wanted = f"{self.images} beside {self.masks}"
        return found(self.source, root, wanted, pairs, problems)

    def _pair(self, stem: str, picture: Path, mask: Path) -> RawPair:
        return RawPair(
            self.source, stem, PictureFile(picture), MaskFiles((mask,), SCALED_MASK),
            structure=self.structure, convention=self.convention, patient=patient_of(stem),
        )  # fmt: skip
