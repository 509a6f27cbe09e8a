"""The tree of refusals is a public contract: statuses and codes do not change."""

from __future__ import annotations

from service import errors

CONTRACT = {
    "MissingKey": (401, "missing_key"),
    "WrongKey": (403, "wrong_key"),
    "UploadTooSlow": (408, "upload_too_slow"),
    "HeadersTooLarge": (431, "headers_too_large"),
    "ComputeLost": (503, "compute_lost"),
    "OutOfMemory": (503, "out_of_memory"),
    "UndecodableImage": (400, "undecodable_image"),
    "MalformedRequest": (400, "malformed_request"),
    "ExpiredKey": (403, "expired_key"),
    "InsufficientScope": (403, "insufficient_scope"),
    "HostNotAllowed": (403, "host_not_allowed"),
    "ForeignOrigin": (403, "foreign_origin"),
    "TooManyAttempts": (429, "too_many_attempts"),
    "AuditUnavailable": (503, "audit_unavailable"),
    "ReloadRefused": (409, "reload_refused"),
    "NotFound": (404, "not_found"),
    "MethodNotAllowed": (405, "method_not_allowed"),
    "NotAcceptable": (406, "not_acceptable"),
    "PayloadTooLarge": (413, "payload_too_large"),
    "TooManyPixels": (413, "too_many_pixels"),
    "UnsupportedMediaType": (415, "unsupported_media_type"),
    "UnsupportedTransferSyntax": (415, "unsupported_transfer_syntax"),
    "InvalidBox": (422, "invalid_box"),
    "InvalidField": (422, "invalid_field"),
    "MissingField": (422, "missing_field"),
    "UnknownModel": (422, "unknown_model"),
    "ImageTooCostly": (422, "image_too_costly"),
    "WorkerLost": (503, "worker_lost"),
    "QueueFull": (429, "queue_full"),
    "InternalError": (500, "internal_error"),
    "NotReady": (503, "not_ready"),
    "Draining": (503, "draining"),
    "DeadlineExceeded": (504, "deadline_exceeded"),
}


def test_statuses_and_codes_are_those_of_the_contract() -> None:
    """Every class, and no other."""
    kinds = {
        kind.__name__: (kind.status, kind.code) for kind in errors.ServiceError.__subclasses__()
    }
    assert kinds == CONTRACT


def test_an_error_carries_its_sentence_and_its_pause() -> None:
    """What the problem document is made of."""
    error = errors.QueueFull("Come back.", retry_after_s=3)
    assert (error.detail, error.retry_after_s, str(error)) == ("Come back.", 3, "Come back.")
