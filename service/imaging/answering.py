"""The second half of one answer: turn logits into masks, and masks into the answer's body.

The body is JSON, the mask itself, or DICOM objects.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pybase64
from numpy.typing import NDArray

from model_store.postprocessing import MaskLogits, mask_from
from model_store.stages import STAGES
from model_store.structures import HEART, LUNGS
from service.errors import NotAcceptable
from service.imaging.answer_data import AnswerContext, RenderedAnswer
from service.imaging.answer_schema import (
    ImageSize,
    Latency,
    Measurements,
    ResponseWarning,
    RunLengthMask,
    SegmentAnswer,
    SegmentedMask,
)
from service.imaging.answer_warnings import FoundMasks, warnings_about
from service.imaging.answered_masks import (
    AnsweredMask,
    MaskOptions,
    answered_masks,
    clipped_masks,
)
from service.imaging.dicom_object import SegmentationMethod
from service.imaging.further_shapes import further_shapes
from service.imaging.heart import heart_masks
from service.imaging.islands import without_islands
from service.imaging.jpeg_encoding import encode_jpeg
from service.imaging.lung_sides import UNKNOWN_SIDES, lung_sides
from service.imaging.measurements import measure_lungs
from service.imaging.opening import OpenedXray
from service.imaging.packed_masks import KEPT_WHOLE_PX, HeldMasks
from service.imaging.png_encoding import encode_png
from service.imaging.rendering import encode_mask_png, encode_rle, overlay_colours
from service.imaging.response_warnings import ImageWarning
from service.imaging.segment_request import AnswerKind, MaskShape, OverlayFormat, View
from service.imaging.side_threads import in_turn, side_threads
from service.imaging.upright import as_stored, is_turn_doubtful
from service.imaging.views import ViewedMasks, encode_view, legend_of, view_of, with_margin
from service.imaging.warning_advice import advice_on, gravest, gravest_of_masks

_PICTURE = "<picture>"
"""Placeholder for a picture while the rest is encoded as JSON, because escaping its base64 is
slow."""


@dataclass
class _Rendering:
    """The state of one rendering: the model's masks, and the answer's masks."""

    opened: OpenedXray
    pixels: NDArray[Any]  # of the upright X-ray, as `found` is
    mask_logits: Sequence[MaskLogits]
    found: FoundMasks
    masks: Sequence[AnsweredMask]  # of the pixels that the caller knows
    context: AnswerContext
    postprocess_s: float
    seconds: dict[str, float] = field(default_factory=dict)

    def end_render(self) -> None:
        """Note the time; later work belongs to no stage."""
        render_s = time.perf_counter() - self.context.requested_at - self.postprocess_s
        self.seconds = {"postprocess": self.postprocess_s, "render": render_s}

    def elapsed_ms(self) -> float:
        return (time.perf_counter() - self.context.request_began_at) * 1000


@dataclass(frozen=True)
class _Described:
    """The content of an answer beside its overlay.

    Attributes:
        warnings: warnings of the answer.
        masks: JSON member of each mask.
        pictures: picture files in the JSON, in order.
    """

    warnings: tuple[ResponseWarning, ...]
    masks: tuple[SegmentedMask, ...]
    pictures: list[bytes]


def answer_of(
    opened: OpenedXray, found: Sequence[MaskLogits], context: AnswerContext
) -> RenderedAnswer:
    """Make the masks and render the answer in the requested form.

    Args:
        opened: the X-ray with its request.
        found: the network's output, by boxes and then structures.
        context: input beside the masks.

    Raises:
        ServiceError: the answer is not available for this image.
    """
    began = time.perf_counter()
    found_masks, masks, remarks = _masks_of(opened, found, context)
    pixels = opened.decoded.upright
    postprocess_s = time.perf_counter() - began
    rendering = _Rendering(opened, pixels, found, found_masks, masks, context, postprocess_s)
    kind = opened.request.answer_kind
    media_type = kind.value
    headers: dict[str, str] = {}
    described, colours = _described_and_drawn(rendering, remarks)
    warnings = described.warnings
    codes = tuple(dict.fromkeys(warning.code for warning in warnings))
    if kind is AnswerKind.JSON:
        body = _json_body(rendering, described, colours)
    elif kind is AnswerKind.PNG and opened.request.view is not None:
        body = _view_png(rendering, opened.request.view, warnings)
        rendering.end_render()
        headers = _headers(rendering, codes) | {"X-Lungseg-View": opened.request.view.value}
    elif kind is AnswerKind.PNG:
        body = encode_mask_png(masks[0].mask)
        rendering.end_render()
        headers = _headers(rendering, codes) | _mask_headers(masks[0])
    else:
        body, media_type = _dicom_answer(rendering, codes)
        rendering.end_render()
        headers = _headers(rendering, codes)
    lungs = [
        (np.count_nonzero(one.mask) / one.mask.size, float(one.confidence))
        for one in found_masks.lungs
    ]
    return RenderedAnswer(
        media_type,
        body,
        headers,
        codes,
        tuple(area for area, _ in lungs),
        rendering.seconds,
        areas_px=tuple(int(np.count_nonzero(one.mask)) for one in masks),
        confidences=tuple(float(one.confidence) for one in masks),
        lungs_confidences=tuple(confidence for _, confidence in lungs),
    )


def _masks_of(
    opened: OpenedXray, found: Sequence[MaskLogits], context: AnswerContext
) -> tuple[FoundMasks, Sequence[AnsweredMask], Sequence[ImageWarning]]:
    """Return the model's masks, the answer's masks, and warnings about them.

    A large answer stores masks as bits, and each step handles one after the other.
    """
    geometry, threshold = opened.geometry, opened.request.threshold
    mask_logits = [one for one in found if one.structure == LUNGS]
    are_packed = _wait_packed(opened, found)
    lungs, hearts = (
        HeldMasks(
            are_packed,
            (mask_from(one, geometry, threshold) for one in found if one.structure == structure),
        )
        for structure in (LUNGS, HEART)
    )
    is_doubtful = is_turn_doubtful(opened.decoded, lungs, context.kind)
    found_masks = FoundMasks(lungs, hearts, context.kind, is_doubtful)
    options = MaskOptions(
        opened.request.lungs,
        opened.request.drops_islands,
        opened.scale.towards_left,
        not is_doubtful,
    )
    upright, remarks = answered_masks(lungs, mask_logits, geometry, options, are_packed=are_packed)
    if LUNGS not in opened.request.structures:  # they are only measured
        upright, remarks = [], []
    if HEART in opened.request.structures:
        drops_islands = opened.request.drops_islands
        # Each box's lungs stay before its heart.
        upright = HeldMasks(
            are_packed,
            heapq.merge(
                upright,
                heart_masks(hearts, drops_islands=drops_islands),
                key=lambda one: one.box_index,
            ),
        )
    masks = HeldMasks(are_packed, (as_stored(one, opened.decoded) for one in upright))
    if opened.request.clips_to_boxes:
        masks = HeldMasks(are_packed, clipped_masks(masks, opened.request.boxes))
    return found_masks, masks, remarks


def _wait_packed(opened: OpenedXray, found: Sequence[MaskLogits]) -> bool:
    """Return whether the masks together are so large that they are stored as bits."""
    masks_px = opened.decoded.pixels.size * max(len(found), len(opened.request.boxes))
    return masks_px > KEPT_WHOLE_PX


def _described_and_drawn(
    rendering: _Rendering, remarks: Sequence[ImageWarning]
) -> tuple[_Described, NDArray[np.uint32] | None]:
    """Return the description of the answer, and the colours of its overlay if it has one.

    They are made in parallel if a core is idle. In a large answer they are made in turn, so that
    only one mask at a time is unpacked.
    """
    opened, request = rendering.opened, rendering.opened.request
    is_json = request.answer_kind is AnswerKind.JSON

    def describe() -> _Described:
        warnings = warnings_about(opened, rendering.found, remarks)
        pictures: list[bytes] = []
        masks = [_segmented(rendering, one, pictures) for one in rendering.masks if is_json]
        return _Described(tuple(warnings), tuple(masks), pictures)

    def draw() -> NDArray[np.uint32]:
        drawn = (one.mask for one in rendering.masks)
        return overlay_colours(opened.decoded.pixels, drawn, request.boxes)

    if not is_json or request.overlay_in_answer is None:
        return describe(), None
    if _wait_packed(opened, rendering.mask_logits):
        return in_turn(describe, draw)
    colours, described = side_threads().both(draw, describe)
    return described, colours


def _json_body(
    rendering: _Rendering, described: _Described, colours: NDArray[np.uint32] | None
) -> bytes:
    opened, request = rendering.opened, rendering.opened.request
    pictures, warnings, overlay = described.pictures, described.warnings, request.overlay_in_answer
    if colours is not None:
        encode = encode_jpeg if overlay is OverlayFormat.JPEG else encode_png
        pictures.append(encode(colours))
    if request.view is not None:
        pictures.append(_view_png(rendering, request.view, warnings))
    encoded = [pybase64.b64encode(picture) for picture in pictures]
    measured = _measured(rendering) if request.wants_measurements else None
    rendering.end_render()
    answer = SegmentAnswer(
        request_id=rendering.context.request_id,
        model=rendering.context.model,
        image=ImageSize(width=opened.decoded.width, height=opened.decoded.height),
        convention=request.convention,
        threshold=request.threshold,
        masks=described.masks,
        overlay_png=_PICTURE if overlay is OverlayFormat.PNG else None,
        overlay_jpeg=_PICTURE if overlay is OverlayFormat.JPEG else None,
        view_png=_PICTURE if request.view is not None else None,
        latency_ms=_latency(rendering),
        warnings=warnings,
        measurements=measured,
    )
    return _with_pictures(answer, encoded)


def _with_pictures(answer: SegmentAnswer, encoded: Sequence[bytes]) -> bytes:
    """Return the JSON with the pictures, in base64, in place of their placeholders, in order."""
    pieces = answer.model_dump_json().encode().split(_PICTURE.encode())
    if len(pieces) != len(encoded) + 1:
        raise ValueError("the answer has another number of places than pictures")
    return b"".join(itertools.chain(*zip(pieces, encoded, strict=False), pieces[-1:]))


def _view_png(rendering: _Rendering, view: View, warnings: Sequence[ResponseWarning]) -> bytes:
    opened, request = rendering.opened, rendering.opened.request
    shown = ViewedMasks(
        opened.decoded.pixels,
        [one.mask for one in rendering.masks],
        request.boxes,
        gravest_of_masks(one.code for one in warnings),
    )
    picture = view_of(view, shown)
    if request.wants_legend or view is View.ENHANCED:
        listed = [(one.code, one.severity) for one in warnings]
        confidences = [one.confidence for one in rendering.masks]
        picture = with_margin(picture, legend_of(view, request.convention, confidences, listed))
    return encode_view(picture)


def _dicom_answer(rendering: _Rendering, warning_codes: Sequence[str]) -> tuple[bytes, str]:
    """Return the body and its media type."""
    # A slow import, seldom needed.
    from service.imaging.dicom_report import Remark
    from service.imaging.dicom_results import DicomResults, multipart

    opened, context = rendering.opened, rendering.context
    request = opened.request
    if opened.header is None:
        raise NotAcceptable("An answer in DICOM needs a DICOM image.")
    results = DicomResults(
        opened.header,
        opened.decoded.pixels,
        rendering.masks,
        SegmentationMethod(
            context.model, request.convention, request.threshold, is_prompted=bool(request.boxes)
        ),
        [Remark(code, str(advice_on(code).severity)) for code in warning_codes],
        context.object_options,
        request.view or View.OVERLAY,
        _ratio_of(rendering) if request.wants_ratio else None,
        opened.display,
    )
    if request.answer_kind is AnswerKind.DICOM:
        return results.segmentation(), request.answer_kind.value
    return multipart([results.encode(one) for one in request.objects])


def _ratio_of(rendering: _Rendering) -> float | None:
    """Return the cardiothoracic ratio of a single box; a report has none for several boxes."""
    found = [one.cardiothoracic for one in _measured(rendering)]
    return found[0].ratio if len(found) == 1 and found[0] is not None else None


def _headers(rendering: _Rendering, warning_codes: Sequence[str]) -> dict[str, str]:
    """Return headers with the content of the JSON answer, for answers whose body is a picture."""
    model, request = rendering.context.model, rendering.opened.request
    return {
        "X-Lungseg-Model": f"{model.name}/{model.version}",
        "X-Lungseg-Model-Sha256": model.sha256,
        "X-Lungseg-Precision": model.precision,
        "X-Lungseg-Device": model.device,
        "X-Lungseg-Convention": request.convention,
        "X-Lungseg-Threshold": f"{request.threshold:g}",
        "X-Lungseg-Warnings": ",".join(warning_codes),
        "X-Lungseg-Severity": str(gravest(warning_codes) or ""),
        "X-Lungseg-Latency-Ms": f"{rendering.elapsed_ms():.1f}",
    }


def _mask_headers(found: AnsweredMask) -> dict[str, str]:
    area_px = int(np.count_nonzero(found.mask))
    return {
        "X-Lungseg-Bbox": ",".join(f"{value:g}" for value in found.box),
        "X-Lungseg-Score": f"{found.score:.4f}",
        "X-Lungseg-Confidence": f"{found.confidence:.4f}",
        "X-Lungseg-Structure": found.structure,
        "X-Lungseg-Area-Px": str(area_px),
        "X-Lungseg-Area-Fraction": f"{area_px / found.mask.size:.6f}",
    }


def _measured(rendering: _Rendering) -> tuple[Measurements, ...]:
    """Measure the masks of each box, without islands if requested."""
    opened, wants_heart = rendering.opened, HEART in rendering.opened.request.network_structures
    measured = []
    for index, found in enumerate(rendering.found.lungs):
        lungs, heart = found.mask, rendering.found.hearts[index].mask if wants_heart else None
        if opened.request.drops_islands:
            lungs = without_islands(lungs)[0]
            heart = None if heart is None else without_islands(heart)[0]
        is_doubtful = rendering.found.is_turn_doubtful
        sides = UNKNOWN_SIDES if is_doubtful else lung_sides(lungs, opened.scale.towards_left)
        measured.append(measure_lungs(index, lungs, sides, rendering.pixels, opened.scale, heart))
    return tuple(measured)


def _segmented(rendering: _Rendering, found: AnsweredMask, pictures: list[bytes]) -> SegmentedMask:
    """Return one mask in the requested forms; add its pictures to those of the answer."""
    area_px = int(np.count_nonzero(found.mask))
    shapes = rendering.opened.request.shapes
    has_png, has_rle = MaskShape.PNG in shapes, MaskShape.RLE in shapes
    if has_png:
        pictures.append(encode_mask_png(found.mask))
    extra = further_shapes(found, rendering.mask_logits, rendering.opened)
    if extra.probability_png is not None:
        pictures.append(extra.probability_png)
    return SegmentedMask(
        bbox=found.box,
        score=found.score,
        confidence=found.confidence,
        area_px=area_px,
        area_fraction=area_px / found.mask.size,
        png=_PICTURE if has_png else None,
        rle=RunLengthMask(**encode_rle(found.mask)) if has_rle else None,
        structure=found.structure,
        side=found.side,
        box_index=found.box_index,
        polygon=extra.polygon,
        band=extra.band,
        probability_png=None if extra.probability_png is None else _PICTURE,
    )


def _latency(rendering: _Rendering) -> Latency:
    seconds = {**rendering.context.stage_seconds, **rendering.seconds}
    stages = {stage: round(seconds.get(stage, 0.0) * 1000, 2) for stage in STAGES}
    return Latency(**stages, total=round(rendering.elapsed_ms(), 2))
