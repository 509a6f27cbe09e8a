"""The rule for objects to segment, by a few attributes of their header."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from service.dicom_node.settings import SelectSettings

_KEYWORDS = ["Modality", "BodyPartExamined", "ViewPosition"]
_UNREADABLE = (
    *(ArithmeticError, AttributeError, EOFError, InvalidDicomError, LookupError),
    *(NotImplementedError, TypeError, ValueError),
)


class UnreadableObject(Exception):  # noqa: N818 - names what happened
    """The object cannot be parsed as DICOM."""


def reason_to_skip(path: Path, settings: SelectSettings) -> str | None:
    """Return why an object is not segmented.

    Args:
        path: file of the object; its pixels are never read.
        settings: the rule.

    Returns:
        The deciding attribute, `modality`, `body_part` or `view`; None if the object is to be
        segmented.

    Raises:
        UnreadableObject: the header cannot be parsed.
    """
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_KEYWORDS)
        modality, part, view = (_code(header, keyword) for keyword in _KEYWORDS)
    except _UNREADABLE:
        raise UnreadableObject from None
    if modality and modality not in settings.modalities:
        return "modality"
    if part in settings.other_body_parts:
        return "body_part"
    return "view" if view in settings.other_views else None


def _code(header: Dataset, keyword: str) -> str:
    value: Any = header.get(keyword)
    return "" if value is None else str(value).strip().upper()
