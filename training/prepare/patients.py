"""The patient of an X-ray, from file names that collections keep in copies."""

from __future__ import annotations

import re

_PATTERNS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("bimcv", re.compile(r"(?:^|_)sub-(S\d+)")),
    ("kermany", re.compile(r"^(person\d+_(?:bacteria|virus))_\d+")),
    ("kermany", re.compile(r"^((?:NORMAL2?-)?IM-\d+)-\d+")),
    ("nih", re.compile(r"^(\d{8})_\d{3}$")),
)


def patient_of(stem: str) -> str | None:
    """Return the patient in a file name, equal in every collection, or None.

    Known are the names of BIMCV-COVID19+ (``sub-S03044_ses-...``), of Kermany's pneumonia set
    (``person12_virus_34``, ``IM-0115-0001``) and of NIH ChestX-ray14 (``00000013_005``).
    """
    for origin, pattern in _PATTERNS:
        match = pattern.search(stem)
        if match:
            return f"{origin}_{match.group(1)}"
    return None
