"""The source of masks for routes: this process, or the serving process behind a front."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from starlette.requests import Request

from service.errors import ServiceError
from service.http.key_file import KeyScope
from service.http.keys import ApiKeys, note_key
from service.imaging.segment_request import SegmentRequest
from service.pipeline.held_answer import HeldAnswer
from service.pipeline.segmentation import SegmentationService
from service.pipeline.upload_budget import UploadBudget
from service.request_record import RequestRecord, record_of
from service.settings import Settings
from service.workers.shared_memory import Blob


class MaskSource(Protocol):
    """Admits requests and answers them."""

    @property
    def settings(self) -> Settings:
        """The limits."""

    @property
    def uploads(self) -> UploadBudget:
        """Memory for unfinished uploads."""

    def counted(self, record: RequestRecord) -> AbstractContextManager[None]:
        """Count a request as running, however it ends."""

    async def admit(self, request: Request, own: ServiceError | None, *, for_masks: bool) -> None:
        """Let a request pass before its upload is read, or refuse it.

        Args:
            request: the request, its body unread.
            own: refusal by the caller of this function; raised in order with the others.
            for_masks: whether it requests masks, which an audit log records.

        Raises:
            ServiceError: it is refused.
        """

    async def segment(
        self, image: Blob, request: SegmentRequest, upload_bytes: int, record: RequestRecord
    ) -> HeldAnswer:
        """Answer one request; as `SegmentationService.segment`."""

    async def preview(self, image: Blob, upload_bytes: int, record: RequestRecord) -> HeldAnswer:
        """Return the grey values of one X-ray; as `SegmentationService.preview`."""

    def keep_answer(self, size_bytes: int) -> Callable[[], None]:
        """Count an answer until it is sent; return the function that ends the count."""


class ServedMasks:
    """Masks of the service in this process."""

    def __init__(self, service: SegmentationService, keys: ApiKeys | None) -> None:
        """Keep the service and its API keys; None if no key is required."""
        self.service = service
        self._keys = keys

    @property
    def settings(self) -> Settings:
        """The limits."""
        return self.service.settings

    @property
    def uploads(self) -> UploadBudget:
        """Memory for unfinished uploads."""
        return self.service.admission.uploads

    def counted(self, record: RequestRecord) -> AbstractContextManager[None]:
        """Count a request as running, however it ends."""
        return self.service.count_running()

    async def admit(self, request: Request, own: ServiceError | None, *, for_masks: bool) -> None:
        """Let a request pass before its upload is read, or refuse it."""
        address = request.client.host if request.client is not None else ""
        record = record_of(request.scope)
        key_name = self.key_name(request.headers, address)
        if key_name is not None:
            note_key(record, key_name)
        self.refuse(own, record.caller, for_masks=for_masks)

    def key_name(self, headers: Mapping[str, str], address: str) -> str | None:
        """Return the name of a request's key; None if no key is required.

        Args:
            headers: lower-case names, those of `KEY_HEADERS` at least.
            address: the caller's.

        Raises:
            ServiceError: it has no suitable key.
        """
        if self._keys is None:
            return None
        return self._keys.require(headers, KeyScope.SEGMENT, address=address).name

    def require_readiness(self, *, for_masks: bool) -> None:
        """Refuse a request while the service is not ready.

        Raises:
            ServiceError: why.
        """
        if for_masks:
            self.service.readiness.require_some_model()
        else:
            self.service.readiness.require_ready()

    def refuse(self, own: ServiceError | None, caller: str, *, for_masks: bool) -> None:
        """Refuse a request with a valid key that cannot be answered now.

        Args:
            own: refusal that does not depend on the service's state.
            caller: name of its caller.
            for_masks: whether it requests masks.

        Raises:
            ServiceError: why.
        """
        self.require_readiness(for_masks=for_masks)
        if own is not None:
            raise own
        self.service.admission.refuse_if_full(caller)
        if for_masks and self.service.auditing is not None:
            self.service.auditing.refuse_if_unavailable()

    async def segment(
        self, image: Blob, request: SegmentRequest, upload_bytes: int, record: RequestRecord
    ) -> HeldAnswer:
        """Answer one request."""
        return await self.service.segment(image, request, upload_bytes, record)

    async def preview(self, image: Blob, upload_bytes: int, record: RequestRecord) -> HeldAnswer:
        """Return the grey values of one X-ray."""
        return await self.service.preview(image, upload_bytes, record)

    def keep_answer(self, size_bytes: int) -> Callable[[], None]:
        """Count an answer until it is sent."""
        return self.service.admission.keep_answer(size_bytes)
