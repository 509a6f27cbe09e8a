"""All refusals of the service, as one tree of exceptions with their HTTP status.

Any function raises the exception that names the problem. The HTTP layer turns it into an RFC 9457
problem document, without a table of its own. The `code` of each class is part of the public
contract: clients branch on it, so it never changes once released. The caller sees the sentence in
`detail`. It must never contain a file name, a path, a DICOM value or anything else that could name
a patient.
"""
# The classes are named after the problem they report (`QueueFull`), as httpx and starlette do.
# ruff: noqa: N818

from __future__ import annotations

from typing import ClassVar


class ServiceError(Exception):
    """A request that cannot be answered, with its status, stable code and a sentence.

    Attributes:
        status: HTTP status code of the answer.
        code: stable machine-readable code (closed set, also used as a metric label).
        title: short human title of the problem class; the same for each occurrence.
        detail: one sentence on this occurrence that says what to do.
        retry_after_s: seconds after which a retry makes sense, or None.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, *, retry_after_s: int | None = None) -> None:
        """Keep the sentence for the caller.

        Args:
            detail: one sentence, free of file names, paths and DICOM values.
            retry_after_s: seconds to announce in `Retry-After`, or None for no such header.
        """
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s


class UndecodableImage(ServiceError):
    """The bytes look like an image but cannot be decoded (truncated, broken, empty)."""

    status = 400
    code = "undecodable_image"
    title = "The image cannot be decoded"


class MalformedRequest(ServiceError):
    """The request body is not valid multipart/form-data, or has too many or too large fields."""

    status = 400
    code = "malformed_request"
    title = "The request cannot be read"


class MissingKey(ServiceError):
    """The service requires an API key and the request has none."""

    status = 401
    code = "missing_key"
    title = "An API key is needed"


class WrongKey(ServiceError):
    """The API key is not one of those that the service knows."""

    status = 403
    code = "wrong_key"
    title = "The API key is not valid"


class ExpiredKey(ServiceError):
    """The API key has expired."""

    status = 403
    code = "expired_key"
    title = "The API key has expired"


class InsufficientScope(ServiceError):
    """The API key has another scope."""

    status = 403
    code = "insufficient_scope"
    title = "The API key is not for this"


class HostNotAllowed(ServiceError):
    """The request names a host that is not the service, as in DNS rebinding."""

    status = 403
    code = "host_not_allowed"
    title = "The service is not called by this name"


class ForeignOrigin(ServiceError):
    """A web page of another origin sent a request that only the service's own page may send."""

    status = 403
    code = "foreign_origin"
    title = "Sent by a web page of another origin"


class NotFound(ServiceError):
    """No route has this path."""

    status = 404
    code = "not_found"
    title = "No such address"


class MethodNotAllowed(ServiceError):
    """The route exists but not for this HTTP method."""

    status = 405
    code = "method_not_allowed"
    title = "Method not allowed"


class ReloadRefused(ServiceError):
    """The model was not changed; the current one continues to serve."""

    status = 409
    code = "reload_refused"
    title = "The model was not changed"


class NotAcceptable(ServiceError):
    """The `Accept` header requests a form of answer that this request cannot have."""

    status = 406
    code = "not_acceptable"
    title = "The answer cannot have the form asked for"


class UploadTooSlow(ServiceError):
    """The body arrives too slowly."""

    status = 408
    code = "upload_too_slow"
    title = "The upload is too slow"


class PayloadTooLarge(ServiceError):
    """The upload has more bytes than the limit."""

    status = 413
    code = "payload_too_large"
    title = "The upload is too large"


class TooManyPixels(ServiceError):
    """The image has more pixels than the limit."""

    status = 413
    code = "too_many_pixels"
    title = "The image has too many pixels"


class UnsupportedMediaType(ServiceError):
    """The service does not support the kind of the request body or of its file."""

    status = 415
    code = "unsupported_media_type"
    title = "Unsupported media type"


class UnsupportedTransferSyntax(ServiceError):
    """The service does not support the DICOM file's compression."""

    status = 415
    code = "unsupported_transfer_syntax"
    title = "Unsupported DICOM transfer syntax"


class InvalidBox(ServiceError):
    """A box is not four finite numbers inside the image."""

    status = 422
    code = "invalid_box"
    title = "Invalid box"


class InvalidField(ServiceError):
    """A form field is unknown, repeated or has an invalid value."""

    status = 422
    code = "invalid_field"
    title = "Invalid field"


class UnknownModel(ServiceError):
    """The request names a model that is not served."""

    status = 422
    code = "unknown_model"
    title = "No such model is served"


class MissingField(ServiceError):
    """A required form field is absent."""

    status = 422
    code = "missing_field"
    title = "Missing field"


class HeadersTooLarge(ServiceError):
    """The request has too many headers."""

    status = 431
    code = "headers_too_large"
    title = "Too many request headers"


class ImageTooCostly(ServiceError):
    """Decoding or rendering needs more processor time or memory than an image may take."""

    status = 422
    code = "image_too_costly"
    title = "The image costs too much"


class QueueFull(ServiceError):
    """The queue of waiting requests is full."""

    status = 429
    code = "queue_full"
    title = "Too many requests are waiting"


class TooManyAttempts(ServiceError):
    """Too many invalid keys came from one address."""

    status = 429
    code = "too_many_attempts"
    title = "Too many keys that are not valid"


class InternalError(ServiceError):
    """Something failed in the service; the caller gets a fixed sentence and the request id."""

    status = 500
    code = "internal_error"
    title = "Internal error"


class AuditUnavailable(ServiceError):
    """The audit log cannot be written, and the operator requires an entry for every mask."""

    status = 503
    code = "audit_unavailable"
    title = "The audit log cannot be written"


class NotReady(ServiceError):
    """The model is still loading, or its self test failed."""

    status = 503
    code = "not_ready"
    title = "Not ready"


class ComputeLost(ServiceError):
    """The compute process or its device was lost while it had the request."""

    status = 503
    code = "compute_lost"
    title = "The computation was interrupted"


class WorkerLost(ServiceError):
    """The image worker was lost while it had the request, and the image did not cause it."""

    status = 503
    code = "worker_lost"
    title = "The image worker was interrupted"


class OutOfMemory(ServiceError):
    """The device had too little memory for the request at that moment."""

    status = 503
    code = "out_of_memory"
    title = "Too little device memory"


class Draining(ServiceError):
    """The process is shutting down and accepts no new work."""

    status = 503
    code = "draining"
    title = "Shutting down"


class DeadlineExceeded(ServiceError):
    """The answer was not ready within the time allowed for one request."""

    status = 504
    code = "deadline_exceeded"
    title = "The request took too long"
