"""Errors and warnings of decoding get the statuses and codes of the HTTP contract."""

import pytest

from model_store.pictures import picture_errors as pictures
from model_store.pictures.mask_reading import MaskError
from model_store.pictures.picture_warnings import PictureWarning, PictureWarningCode
from service.errors import TooManyPixels
from service.imaging.picture_errors import read_upload, service_error_of, warnings_of
from service.imaging.response_warnings import WarningCode

CONTRACT = {
    pictures.PictureError: (400, "undecodable_image"),
    pictures.UndecodablePictureError: (400, "undecodable_image"),
    pictures.UnsupportedPictureError: (415, "unsupported_media_type"),
    pictures.UnsupportedTransferSyntaxError: (415, "unsupported_transfer_syntax"),
    pictures.TooManyPixelsError: (413, "too_many_pixels"),
    pictures.PictureShapeError: (422, "invalid_field"),
}


def kinds_below(kind: type[pictures.PictureError]) -> set[type[pictures.PictureError]]:
    return {kind}.union(*(kinds_below(child) for child in kind.__subclasses__()))


def test_every_kind_of_refusal_has_a_place_in_the_contract() -> None:
    # Masks are read by training alone.
    assert kinds_below(pictures.PictureError) - {MaskError} == set(CONTRACT)


@pytest.mark.parametrize("kind", CONTRACT)
def test_a_refusal_keeps_its_sentence_and_gets_its_status(
    kind: type[pictures.PictureError],
) -> None:
    error = service_error_of(kind("Send another one."))
    assert (error.status, error.code, error.detail) == (*CONTRACT[kind], "Send another one.")


def test_a_refused_upload_raises_the_service_error_without_its_cause() -> None:
    png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (9999).to_bytes(4, "big") * 2 + bytes(20)
    with pytest.raises(TooManyPixels) as caught:
        read_upload(png, max_pixels=1000)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("code", PictureWarningCode)
def test_every_warning_of_decoding_is_a_warning_of_the_service(code: PictureWarningCode) -> None:
    (warning,) = warnings_of([PictureWarning(code, "Look at it.")])
    assert warning.code is WarningCode(code.value)
    assert warning.message == "Look at it."
