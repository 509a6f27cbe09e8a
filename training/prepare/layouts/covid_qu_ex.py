"""COVID-QU-Ex: lung masks of every X-ray, infection masks of some.

``Lung Segmentation Data/{Train,Val,Test}/CLASS/{images,lung masks}`` and the same below
``Infection Segmentation Data`` with ``infection masks`` as well, 256 x 256 pixels. X-rays of the
infection part are also in the lung part, whose lung masks are preferred.
"""

from __future__ import annotations

from pathlib import Path

from training.data.dataset import Structure
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

SOURCE = "covid_qu_ex"
_FOLDERS: dict[Structure, str] = {"lungs": "lung masks", "infection": "infection masks"}


def find(root: Path) -> Found:
    """Find images, lung masks and infection masks below a folder.

    Raises:
        DataError: The folder holds none of them.
    """
    pairs: list[RawPair] = []
    problems: list[Problem] = []
    have_lungs: set[str] = set()
    # The lung part comes first, because it has no infection masks.
    for images in sorted(folders_named(root, "images"), key=_has_infections):
        pictures = image_files(images)
        for structure, folder in _FOLDERS.items():
            masks = images.parent / folder
            if structure == "infection" and not masks.is_dir():
                continue
            drawn = image_files(masks)
            both, unpaired = matched(SOURCE, pictures, drawn)
            problems += unpaired
            if structure == "lungs":
                both = [stem for stem in both if stem not in have_lungs]
                have_lungs.update(both)
            pairs += [_pair(stem, pictures[stem], drawn[stem], structure) for stem in both]
    return found(SOURCE, root, "{Train,Val,Test}/CLASS/{images,lung masks}", pairs, problems)


def _has_infections(images: Path) -> bool:
    return (images.parent / _FOLDERS["infection"]).is_dir()


def _pair(stem: str, picture: Path, mask: Path, structure: Structure) -> RawPair:
    return RawPair(
        SOURCE,
        f"{stem}_{structure}" if structure != "lungs" else stem,
        PictureFile(picture),
        MaskFiles((mask,)),
        structure=structure,
        convention="lung_field" if structure == "lungs" else None,
        patient=patient_of(stem),
    )
