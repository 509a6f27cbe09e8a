"""Every reason for which a file is not read as an X-ray, as one tree of exceptions.

The tree knows no HTTP: training and the service read by the same functions, and each says in its
own way what went wrong. The `code` word of a class is stable, for programs. The `detail` sentence
is for people and holds no file name, no path and no DICOM value.
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
    """The file is valid, as far as one can tell, but of a kind that is not read."""

    code = "unsupported_media_type"


class UnsupportedTransferSyntaxError(UnsupportedPictureError):
    """A DICOM file is compressed in a way that is not read."""

    code = "unsupported_transfer_syntax"


class TooManyPixelsError(PictureError):
    """The picture has more pixels than allowed."""

    code = "too_many_pixels"


class PictureShapeError(PictureError):
    """A side is too short, or one side far longer than the other: no X-ray."""

    code = "unsuitable_shape"
