"""Read an upload, with errors and warnings of decoding translated to the service's.

Decoding is independent of HTTP. Only here its errors get the status and the code of the HTTP
contract.
"""

from __future__ import annotations

from collections.abc import Iterable

from model_store.pictures import picture_errors as pictures
from model_store.pictures.picture_reading import Picture, read_picture
from model_store.pictures.picture_warnings import PictureWarning
from model_store.pictures.pixel_coding import BeforeDecoding, accept_any
from service.errors import (
    InvalidField,
    ServiceError,
    TooManyPixels,
    UndecodableImage,
    UnsupportedMediaType,
    UnsupportedTransferSyntax,
)
from service.imaging.response_warnings import ImageWarning, WarningCode

_ANSWERS: dict[type[pictures.PictureError], type[ServiceError]] = {
    pictures.UndecodablePictureError: UndecodableImage,
    pictures.UnsupportedTransferSyntaxError: UnsupportedTransferSyntax,
    pictures.UnsupportedPictureError: UnsupportedMediaType,
    pictures.TooManyPixelsError: TooManyPixels,
    pictures.PictureShapeError: InvalidField,
}


def read_upload(
    data: bytes, max_pixels: int, before_decoding: BeforeDecoding = accept_any
) -> Picture:
    """Decode an uploaded file.

    Args:
        data: the whole file.
        max_pixels: most pixels allowed (width times height), inclusive.
        before_decoding: told coding and number of pixels once the header is read.

    Raises:
        ServiceError: the picture is refused.
    """
    try:
        return read_picture(data, max_pixels=max_pixels, before_decoding=before_decoding)
    except pictures.PictureError as error:
        raise service_error_of(error) from None


def service_error_of(error: pictures.PictureError) -> ServiceError:
    """Return the service's error for an error of decoding."""
    kinds = (_ANSWERS[kind] for kind in type(error).__mro__ if kind in _ANSWERS)
    return next(kinds, UndecodableImage)(error.detail)


def warnings_of(found: Iterable[PictureWarning]) -> list[ImageWarning]:
    """Return the warnings of decoding as warnings of the answer."""
    return [ImageWarning(WarningCode(one.code), one.message) for one in found]
