"""The first half of one answer: turn an upload into pixels and the network's input."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from model_store.boxes import BoxError, validate_box
from model_store.geometry import InputGeometry, windowed_mean
from model_store.grey_levels import grey_histogram
from model_store.pictures.dicom_display import GreyDisplay, read_grey_display
from model_store.pictures.picture_reading import Picture
from model_store.pictures.pixel_coding import BeforeDecoding, accept_any
from model_store.prediction import PredictionRequest
from model_store.preprocessing import PreparedRequest, prepare
from service.errors import InvalidBox, InvalidField, NotAcceptable
from service.imaging.dicom_header import SourceHeader, read_source_header
from service.imaging.image_scale import USUAL_DISPLAY, ImageScale, read_scale
from service.imaging.jpeg_encoding import LONGEST_SIDE_PX
from service.imaging.mask_checks import check_image
from service.imaging.picture_errors import read_upload
from service.imaging.response_warnings import ImageWarning
from service.imaging.segment_request import OverlayFormat, SegmentRequest
from service.imaging.upright import upright_request, upright_scale


@dataclass(frozen=True)
class OpenedXray:
    """A decoded upload with everything that rendering its answer needs.

    Attributes:
        decoded: the X-ray.
        geometry: how the X-ray lies in the network's input.
        remarks: warnings about its grey values.
        header: attributes for a DICOM answer, if one was requested.
        scale: how pixels of the upright X-ray relate to the patient.
        display: how to display the X-ray's grey values, for answers that repeat it.
    """

    request: SegmentRequest
    decoded: Picture
    geometry: InputGeometry
    remarks: tuple[ImageWarning, ...]
    header: SourceHeader | None = None
    scale: ImageScale = USUAL_DISPLAY
    display: GreyDisplay | None = None


@dataclass(frozen=True)
class Opening:
    """The result of opening an upload.

    Attributes:
        xray: the decoded upload, for rendering.
        prepared: the network's input.
        stage_seconds: seconds of `decode` and `preprocess`.
        grey_level: mean of the windowed grey values, 0 to 255.
    """

    xray: OpenedXray
    prepared: PreparedRequest
    stage_seconds: Mapping[str, float]
    grey_level: float


def open_xray(
    data: bytes,
    request: SegmentRequest,
    input_size: int,
    max_pixels: int,
    requested_at: float,
    before_decoding: BeforeDecoding = accept_any,
) -> Opening:
    """Decode an upload and prepare it for the network.

    Args:
        data: the file.
        request: the caller's request; a DICOM SEG needs a DICOM image.
        input_size: side of the network's input, pixels.
        max_pixels: most pixels allowed.
        requested_at: `time.perf_counter()` of the request; waiting counts as `decode`.
        before_decoding: called with coding and number of pixels; may refuse by raising.

    Raises:
        ServiceError: the image or a box is refused, or the answer is not available for it.
    """
    decoded = read_upload(data, max_pixels, before_decoding)
    decoded_at = time.perf_counter()
    _refuse_jpeg_of_long_sides(request, decoded)
    header = _header_of(decoded) if request.needs_dicom else None
    display = _display_of(decoded) if request.needs_grey_dicom else None
    histogram = grey_histogram(decoded.pixels)
    prepared = prepare(_prediction_request(request, decoded), input_size, histogram)
    remarks = check_image(histogram)
    seconds = {"decode": decoded_at - requested_at, "preprocess": time.perf_counter() - decoded_at}
    scale = upright_scale(read_scale(decoded.dicom), decoded)
    xray = OpenedXray(request, decoded, prepared.geometry, remarks, header, scale, display)
    return Opening(xray, prepared, seconds, windowed_mean(histogram))


def _refuse_jpeg_of_long_sides(request: SegmentRequest, decoded: Picture) -> None:
    """Refuse an overlay that is too large for JPEG, before the network runs."""
    longest = max(decoded.width, decoded.height)
    if request.overlay_in_answer is OverlayFormat.JPEG and longest > LONGEST_SIDE_PX:
        raise InvalidField(
            f"A JPEG holds {LONGEST_SIDE_PX} pixels a side and the image has {longest}; send "
            "overlay=true for a PNG."
        )


def _header_of(decoded: Picture) -> SourceHeader:
    """Read the attributes for a DICOM answer, before the network runs.

    Raises:
        NotAcceptable: the image is not DICOM.
        InvalidField: its header lacks what an answer must refer to.
    """
    if decoded.dicom is None:
        raise NotAcceptable(
            "An answer in DICOM needs a DICOM image; accept application/json or "
            "image/png for this one."
        )
    return read_source_header(decoded.dicom)


def _display_of(decoded: Picture) -> GreyDisplay:
    """Read how to display the grey values, before the network runs.

    Raises:
        InvalidField: the image is in colour.
    """
    display = None if decoded.dicom is None else read_grey_display(decoded.dicom)
    if display is None:
        raise InvalidField(
            "A presentation state (gsps) is for grey X-rays and this image is in colour; leave it "
            "out of objects."
        )
    return display


def _prediction_request(request: SegmentRequest, decoded: Picture) -> PredictionRequest:
    try:
        boxes = [validate_box(box, decoded.width, decoded.height) for box in request.boxes]
    except BoxError as error:
        raise InvalidBox(str(error)) from None
    prompts = () if request.clips_to_boxes else boxes
    return upright_request(decoded, prompts, request.convention, request.threshold)
