"""Validation of the form of `POST /segment`: only known fields, each at most as often as allowed.

An unknown field is refused and not ignored: without a misspelt `convention` the mask would silently
have another shape than the caller expects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from model_store.conventions import DEFAULT_CONVENTION
from model_store.structures import LUNGS, STRUCTURES, Structure
from service.errors import InvalidField, MissingField, NotAcceptable
from service.http.form_fields import IMAGE_FIELD, shown_name
from service.imaging.box_text import DECIMAL_NUMBER, Box, parse_box
from service.imaging.convention_text import parse_convention
from service.imaging.segment_request import (
    DEFAULT_OBJECTS,
    DEFAULT_THRESHOLD,
    UNCERTAINTY_SHAPES,
    AnswerKind,
    DicomObject,
    LungChoice,
    MaskShape,
    OverlayFormat,
    SegmentRequest,
    View,
)

DEFAULT_SHAPES = "png,rle"
SHAPE_WORDS = tuple(one.value for one in MaskShape)
_SINGLE_FIELDS = (
    *("model", "convention", "threshold", "overlay", "objects"),
    *("structure", "shapes", "lungs", "islands", "measurements", "view", "legend", "clip"),
)
FIELDS = (IMAGE_FIELD, "bbox", *_SINGLE_FIELDS)
LUNG_WORDS = tuple(one.value for one in LungChoice)
VIEW_WORDS = tuple(one.value for one in View)
ISLAND_WORDS = ("keep", "drop")
RATIO_WORD = "cardiothoracic"
"""Value of `measurements` beside true and false: measurements with the heart and the ratio."""
OVERLAY_WORDS = (OverlayFormat.JPEG.value,)
"""Value of `overlay` beside true (a PNG) and false."""
_TRUE_WORDS = ("true", "1", "yes", "on")
_FALSE_WORDS = ("false", "0", "no", "off")


def most_fields(max_boxes: int) -> int:
    """Return the most form fields that are read, a few more than are allowed.

    So the refusal of one box too many names boxes and not fields.
    """
    return max_boxes + len(FIELDS) + 8


def read_form(
    fields: Sequence[tuple[str, bytes]], answer_kind: AnswerKind, *, max_boxes: int
) -> SegmentRequest:
    """Check the fields of a form.

    Args:
        fields: name and value of each field, in the order sent; no value of an image is needed.
        answer_kind: form of the answer, from the `Accept` header.
        max_boxes: most boxes in one request.

    Returns:
        The validated request.

    Raises:
        InvalidField: a field is unknown, repeated, or holds a value that is not allowed.
        InvalidBox: a box is not four finite numbers in order.
        MissingField: there is no image.
        NotAcceptable: an answer that is one mask cannot answer several boxes.
    """
    images = 0
    boxes: list[Box] = []
    single: dict[str, str] = {}
    for name, value in fields:
        if name == IMAGE_FIELD:
            images += 1
        elif name == "bbox":
            boxes.append(parse_box(_text(name, value)))
        elif name not in _SINGLE_FIELDS:
            raise InvalidField(
                f"The field {shown_name(name)} is not known; the fields are {', '.join(FIELDS)}."
            )
        elif name in single:
            raise InvalidField(f"The field {name} is given more than once; give it once.")
        else:
            single[name] = _text(name, value).strip()
    _require_one_image(images)
    if len(boxes) > max_boxes:
        raise InvalidField(f"There are {len(boxes)} boxes; one request may have {max_boxes}.")
    wants_overlay, overlay_format = _overlay(single.get("overlay", "true"))
    request = SegmentRequest(
        boxes=tuple(boxes),
        convention=parse_convention(single.get("convention", DEFAULT_CONVENTION)),
        threshold=_threshold(single.get("threshold", str(DEFAULT_THRESHOLD))),
        wants_overlay=wants_overlay,
        answer_kind=answer_kind,
        objects=_objects(single.get("objects"), answer_kind),
        lungs=LungChoice(_one_of("lungs", LUNG_WORDS, single.get("lungs", "both"))),
        drops_islands=_one_of("islands", ISLAND_WORDS, single.get("islands", "keep")) == "drop",
        wants_measurements=_is_measured(single),
        measures_heart=single.get("measurements") == RATIO_WORD,
        structures=_structures(single.get("structure", LUNGS)),
        shapes=_shapes(single.get("shapes", DEFAULT_SHAPES)),
        view=View(_one_of("view", VIEW_WORDS, single["view"])) if "view" in single else None,
        wants_legend=_truth("legend", single.get("legend", "false")),
        clips_to_boxes=_truth("clip", single.get("clip", "false")),
        overlay_format=overlay_format,
        model=single.get("model"),
    )
    if request.lungs is not LungChoice.BOTH and LUNGS not in request.structures:
        raise InvalidField("The field lungs applies to structure=lungs only.")
    is_altered = (
        request.lungs is not LungChoice.BOTH or request.drops_islands or request.clips_to_boxes
    )
    if is_altered and request.shapes & UNCERTAINTY_SHAPES:
        raise InvalidField(
            "The field shapes asks for a band or probabilities, which are of whole masks. Leave "
            "out lungs, islands and clip, or send another request for them."
        )
    if request.view is None:
        _refuse_several_masks(request)
    return request


def _refuse_several_masks(request: SegmentRequest) -> None:
    if request.answer_kind is not AnswerKind.PNG:
        return
    if request.lungs is LungChoice.EACH:
        raise NotAcceptable(
            "An image/png answer is one mask, but lungs=each asks for two; ask for right or left, "
            "or accept application/json."
        )
    if len(request.structures) > 1:
        raise NotAcceptable(
            "An image/png answer is one mask, but two structures are asked for; ask for one, or "
            "accept application/json."
        )
    if len(request.boxes) > 1:
        raise NotAcceptable(
            f"An image/png answer is one mask, but {len(request.boxes)} boxes came; send one box a "
            "request, or accept application/json."
        )


def require_image_alone(fields: Sequence[tuple[str, bytes]]) -> None:
    """Check that a form has one image and nothing else.

    Raises:
        InvalidField: the form has another field, or more than one file.
        MissingField: there is no image.
    """
    for name, _ in fields:
        if name != IMAGE_FIELD:
            raise InvalidField(f"The field {shown_name(name)} is not known; the field is image.")
    _require_one_image(len(fields))


def _require_one_image(images: int) -> None:
    if not images:
        raise MissingField("The field image is missing; send the X-ray as `-F image=@file`.")
    if images > 1:
        raise InvalidField("The field image is given more than once; send one X-ray a request.")


def _text(name: str, value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidField(f"The field {name} is not UTF-8 text.") from None


def _one_of(name: str, known: Sequence[str], value: str) -> str:
    if value not in known:
        raise InvalidField(f"The field {name} must be one of {', '.join(known)}.")
    return value


def _structures(value: str) -> tuple[Structure, ...]:
    """Read structures, separated by commas; return them in the order of an answer's masks."""
    names = [name.strip() for name in value.split(",")]
    if not set(names) <= set(STRUCTURES) or len(set(names)) < len(names):
        raise InvalidField(
            f"The field structure must list some of {', '.join(STRUCTURES)}, each once, with "
            "commas."
        )
    return tuple(one for one in STRUCTURES if one in names)


def _shapes(value: str) -> frozenset[MaskShape]:
    names = [name.strip() for name in value.split(",")]
    known = {one.value: one for one in MaskShape}
    if not set(names) <= set(known) or len(set(names)) < len(names):
        raise InvalidField(
            f"The field shapes must list some of {', '.join(known)}, each once, with commas."
        )
    return frozenset(known[name] for name in names)


def _is_measured(single: Mapping[str, str]) -> bool:
    value = single.get("measurements", "false")
    if value.lower() not in (*_TRUE_WORDS, *_FALSE_WORDS, RATIO_WORD):
        raise InvalidField(f"The field measurements must be true, false or {RATIO_WORD}.")
    return value == RATIO_WORD or _truth("measurements", value)


def _objects(value: str | None, answer_kind: AnswerKind) -> tuple[DicomObject, ...]:
    if value is None:
        return DEFAULT_OBJECTS
    if answer_kind is not AnswerKind.DICOM_OBJECTS:
        raise InvalidField(
            "The field objects is for answers of several DICOM objects; accept "
            'multipart/related; type="application/dicom".'
        )
    names = [name.strip() for name in value.split(",")]
    known = {one.value: one for one in DicomObject}
    if not set(names) <= set(known) or len(set(names)) < len(names):
        raise InvalidField(
            f"The field objects must list some of {', '.join(known)}, each once, with commas."
        )
    return tuple(known[name] for name in names)


def _threshold(value: str) -> float:
    threshold = float(value) if DECIMAL_NUMBER.fullmatch(value) else 0.0
    if not 0.0 < threshold < 1.0:
        raise InvalidField(
            "The field threshold must be a number above 0 and below 1, for example 0.5."
        )
    return threshold


def _overlay(value: str) -> tuple[bool, OverlayFormat]:
    """Return whether an overlay is requested, and its file format."""
    word = value.lower()
    if word in OVERLAY_WORDS:
        return True, OverlayFormat(word)
    if word in _TRUE_WORDS or word in _FALSE_WORDS:
        return word in _TRUE_WORDS, OverlayFormat.PNG
    raise InvalidField("The field overlay must be true or false, or jpeg.")


def _truth(name: str, value: str) -> bool:
    if value.lower() in _TRUE_WORDS:
        return True
    if value.lower() in _FALSE_WORDS:
        return False
    raise InvalidField(f"The field {name} must be true or false.")
