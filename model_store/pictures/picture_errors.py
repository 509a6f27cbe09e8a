"""The exceptions for files that cannot be read as an X-ray.

They are independent of HTTP, because training and the service read with the same functions. The
`code` of a class is stable, for programs. The `detail` is a sentence for people, without file name,
path and DICOM value.
"""

from __future__ import annotations

from typing import ClassVar


class PictureError(Exception):
    """A file that is not read.

    Attributes:
        code: stable word for this kind of refusal.
        detail: one sentence that names the problem and says what to do.
    """

    code: ClassVar[str] = "picture_error"

    def __init__(self, detail: str) -> None:
        """Keep the sentence.

        Args:
            detail: one sentence, free of file names, paths and DICOM values.
        """
        super().__init__(detail)
        self.detail = detail


class UndecodablePictureError(PictureError):
    """The bytes look like a picture but cannot be decoded: truncated, damaged, empty."""

    code = "undecodable_image"


class UnsupportedPictureError(PictureError):
    """The file seems valid, but its kind is not supported."""

    code = "unsupported_media_type"


class UnsupportedTransferSyntaxError(UnsupportedPictureError):
    """The transfer syntax of a DICOM file is not supported."""

    code = "unsupported_transfer_syntax"


class TooManyPixelsError(PictureError):
    """The picture has more pixels than allowed."""

    code = "too_many_pixels"


class PictureShapeError(PictureError):
    """A side is too short, or far longer than the other, for an X-ray."""

    code = "unsuitable_shape"
