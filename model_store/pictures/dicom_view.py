"""View and body part by a DICOM header: codes first, then orientation, then words.

A warning is given if the header names another view or part than a frontal chest. Unknown words give
no warning: hospitals write many, and nobody would read a warning on every X-ray. Words are compared
whole, without accents and case.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from typing import Literal

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.dataset import Dataset
from pydicom.valuerep import TEXT_VR_DELIMS

from model_store.pictures.orientation import UPRIGHT, Orientation, orientation_of_patient
from model_store.pictures.picture_warnings import PictureWarning, PictureWarningCode
from model_store.pictures.view_vocabulary import (
    AP_CODES,
    AP_WORDS,
    CHEST_SCRIPTS,
    CHEST_WORDS,
    FRONTAL_CODES,
    FRONTAL_WORDS,
    LYING_ON_A_SIDE,
    LYING_ON_BACK_OR_FRONT,
    OTHER_PART_CODES,
    OTHER_PART_SCRIPTS,
    OTHER_PARTS,
    OTHER_VIEW_CODES,
    OTHER_VIEW_SCRIPTS,
    OTHER_VIEW_WORDS,
    PA_CODES,
    PA_WORDS,
)

Projection = Literal["AP", "PA"]
"""Direction of the beam: AP enters at the front, PA at the back."""

_WITHOUT_STROKES = str.maketrans(
    {"Ł": "L", "ł": "l", "Ø": "O", "ø": "o", "Đ": "D", "đ": "d", "Æ": "AE", "æ": "ae", "Œ": "OE"}
)
"""Letters that do not decompose into a letter and an accent."""
_WORDS = re.compile(r"[^\W\d_]+")


def view_warnings(header: Dataset) -> list[PictureWarning]:
    """Return warnings where the header contradicts a frontal X-ray of a chest.

    Args:
        header: the DICOM header.
    """
    found = []
    if _is_other_view(header):
        found.append(
            PictureWarning(
                PictureWarningCode.NOT_FRONTAL_VIEW,
                "The DICOM header names a view that is not frontal; the mask may be meaningless.",
            )
        )
    if _is_other_part(header):
        found.append(
            PictureWarning(
                PictureWarningCode.NOT_A_CHEST,
                "The DICOM header names a body part other than the chest.",
            )
        )
    return found


def frontal_projection(header: Dataset) -> Projection | None:
    """Return AP or PA from the header; None if it says neither.

    Args:
        header: the DICOM header; ViewCodeSequence counts before ViewPosition and ViewName.
    """
    codes = _code_values(header, "ViewCodeSequence")
    if codes & (AP_CODES | PA_CODES):
        return _one_of_both(bool(codes & AP_CODES), bool(codes & PA_CODES))
    for keyword in ("ViewPosition", "ViewName"):
        words = _words(str(header.get(keyword, "") or ""))
        if words & (AP_WORDS | PA_WORDS):
            return _one_of_both(bool(words & AP_WORDS), bool(words & PA_WORDS))
    return None


def _one_of_both(is_ap: bool, is_pa: bool) -> Projection | None:
    if is_ap and is_pa:
        return None
    return "AP" if is_ap else "PA"


def stored_orientation(header: Dataset) -> Orientation:
    """Return how to turn the stored pixels to a frontal X-ray as radiologists view it.

    Args:
        header: the DICOM header; only PatientOrientation matters. FieldOfViewRotation and
            FieldOfViewHorizontalFlip record changes made before the pixels were stored.
    """
    directions = _patient_directions(header)
    if directions is None:
        return UPRIGHT
    return orientation_of_patient(*directions) or UPRIGHT


def _patient_directions(header: Dataset) -> tuple[str, str] | None:
    """Return the main direction of rows and of columns: the first letter of each."""
    value = header.get("PatientOrientation")
    parts = str(value).split("\\") if isinstance(value, str) else list(value or ())
    if len(parts) != 2:
        return None
    rows, columns = (str(part).strip().upper()[:1] for part in parts)
    return (rows, columns) if rows and columns else None


def _is_other_view(header: Dataset) -> bool:
    codes = _code_values(header, "ViewCodeSequence")
    if codes & FRONTAL_CODES:
        return False
    if codes & OTHER_VIEW_CODES:
        return True
    directions = _patient_directions(header)
    if directions is not None and set(directions) & {"A", "P"}:
        return True
    text = " ".join(_text(header, name) for name in ("ViewPosition", "ViewName"))
    words = _words(text)
    if words & FRONTAL_WORDS:
        return False
    if words & LYING_ON_A_SIDE and not words & LYING_ON_BACK_OR_FRONT:
        return False
    return bool(words & OTHER_VIEW_WORDS) or _holds(text, _VIEW_SCRIPTS)


def _is_other_part(header: Dataset) -> bool:
    codes = _code_values(header, "AnatomicRegionSequence")
    if codes:
        return bool(codes & OTHER_PART_CODES)
    text = _text(header, "BodyPartExamined")
    words = _words(text)
    if words & CHEST_WORDS or _holds(text, _CHEST_SCRIPTS):
        return False
    return bool(words & OTHER_PARTS) or _holds(text, _PART_SCRIPTS)


def _code_values(header: Dataset, keyword: str) -> set[str]:
    sequence = header.get(keyword)
    return {str(item.get("CodeValue", "") or "").strip() for item in sequence or ()} - {""}


def _text(header: Dataset, keyword: str) -> str:
    """Return a code string (VR CS), decoded by the header's character set.

    The standard allows only ASCII, so pydicom reads each byte as Latin 1, but hospitals write other
    scripts.
    """
    value = header.get(keyword)
    parts = [value] if isinstance(value, str) else value or ()
    text = "\\".join(str(part) for part in parts)
    if text.isascii():
        return text
    try:
        raw = text.encode("latin_1")
    except UnicodeEncodeError:  # already read in its own set
        return text
    try:
        return raw.decode("utf_8")  # other data are hardly ever valid by chance
    except UnicodeDecodeError:
        pass
    try:
        sets = convert_encodings(header.get("SpecificCharacterSet") or "")
        return decode_bytes(raw, sets, TEXT_VR_DELIMS)
    except (LookupError, UnicodeError, ValueError, TypeError, AttributeError):
        return text


def _words(text: str) -> set[str]:
    """Return the words of a text, and pairs of neighbours, in capitals without accents."""
    words = _WORDS.findall(_folded(text).upper())
    return {*words, *(one + two for one, two in itertools.pairwise(words))}


def _holds(text: str, parts_of_words: tuple[str, ...]) -> bool:
    folded = _folded(text).lower()
    return any(one in folded for one in parts_of_words)


def _folded(text: str) -> str:
    """Return a text without accents."""
    decomposed = unicodedata.normalize("NFKD", text.translate(_WITHOUT_STROKES))
    plain = "".join(one for one in decomposed if not unicodedata.combining(one))
    return unicodedata.normalize("NFC", plain)  # composes syllables of Hangul again


_VIEW_SCRIPTS, _CHEST_SCRIPTS, _PART_SCRIPTS = (
    tuple(_folded(one) for one in parts)
    for parts in (OTHER_VIEW_SCRIPTS, CHEST_SCRIPTS, OTHER_PART_SCRIPTS)
)
