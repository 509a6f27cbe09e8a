"""The application factory: puts the parts of the service together."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI

import model_store
from service.audit.chain import read_key
from service.audit.log import AuditLog, AuditWatch
from service.compute.model_loading import (
    PredictorFactory,
    start_compute_child,
)
from service.compute.shadow_model import start_shadow_child
from service.http.admin_app import create_admin_app
from service.http.admin_server import AdminServer
from service.http.docs import add_docs_routes
from service.http.guarded import guarded
from service.http.keys import ApiKeys
from service.http.mask_source import ServedMasks
from service.http.openapi import describe_app
from service.http.problems import install_problem_handlers
from service.http.request_middleware import RequestMiddleware
from service.http.routes_page import add_page_routes
from service.http.routes_preview import add_preview_route
from service.http.routes_segment import add_segment_routes
from service.http.routes_status import add_status_routes
from service.http.traces import TraceExport
from service.http.xray_routes import XrayRoutes
from service.metrics import Metrics
from service.pipeline.auditing import Auditing
from service.pipeline.image_workers import PoolFactory, make_worker_pool
from service.pipeline.segmentation import SegmentationService
from service.settings import Settings, admin_keys_file


def create_app(
    settings: Settings,
    *,
    predictor_factory: PredictorFactory = start_compute_child,
    pool_factory: PoolFactory = make_worker_pool,
    on_refused: Callable[[Exception], None] = lambda error: None,
    admin_listener: socket.socket | None = None,
    shadow_factory: PredictorFactory = start_shadow_child,
) -> FastAPI:
    """Build the application; the model starts loading when the server starts it.

    Args:
        settings: the validated settings.
        predictor_factory: loads the model; replaced in tests.
        pool_factory: makes the image workers; replaced in tests.
        on_refused: called with the error when the model cannot be loaded at all.
        admin_listener: loopback socket of the admin port; None for none.
        shadow_factory: loads the shadow model; replaced in tests.

    Returns:
        The application; `app.state.service` is its `SegmentationService`, `app.state.masks` answers
        requests of routes and fronts.
    """
    service = SegmentationService(
        settings, predictor_factory, pool_factory, on_refused, shadow_factory
    )
    keys = _api_keys(settings, service.metrics)
    service.auditing = _auditing(settings, service.metrics)
    traces = TraceExport(settings.otlp_endpoint) if settings.otlp_endpoint else None

    admin = _admin_server(settings, service, admin_listener)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        await service.start()
        if admin is not None:
            admin.begin()
        yield
        if admin is not None:
            await admin.end()
        await service.stop()
        if traces is not None:
            await asyncio.to_thread(traces.close)

    app = FastAPI(
        title="Lung segmentation",
        version=model_store.__version__,
        description="Masks of the lungs on frontal chest X-rays, by an INT8 Segment Anything "
        "Model. Decision support: a person must look at every mask.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.service = service
    # Added directly to the app's router: an included router would hide its routes from
    # `app.routes`, which the answer to a wrong method reads.
    masks = app.state.masks = ServedMasks(service, keys)
    add_segment_routes(app.router, masks)
    add_status_routes(app.router, service, keys)
    add_preview_route(app.router, masks)
    add_page_routes(app.router)
    add_docs_routes(app.router)
    install_problem_handlers(app)
    app.add_middleware(XrayRoutes, masks=masks)
    app.add_middleware(guarded, settings=settings)
    app.add_middleware(RequestMiddleware, counter=service.metrics, traces=traces)
    describe_app(app, asks_for_keys=keys is not None, metrics_ask_for_keys=settings.metrics_key)
    return app


def _api_keys(settings: Settings, metrics: Metrics) -> ApiKeys | None:
    """Return the configured API keys and publish their metrics."""
    if settings.api_keys_file is None:
        return None
    keys = ApiKeys(
        settings.api_keys_file,
        settings.failed_keys_per_minute,
        on_failed=metrics.key_attempts_failed.inc,
    )
    metrics.follow_keys(
        lambda: keys.valid_keys, lambda: keys.keys_expiring_soon, lambda: keys.file_problems
    )
    return keys


def _auditing(settings: Settings, metrics: Metrics) -> Auditing | None:
    """Open the configured audit log and publish its metrics."""
    if settings.audit_log is None or settings.audit_key_file is None:
        return None
    watch = AuditWatch(
        on_written=metrics.audit_entries.inc,
        on_lost=metrics.audit_lost.inc,
        on_failing=metrics.audit_failing.set,
        on_head=lambda state: metrics.show_audit_head(state.seal, state.entries),
    )
    log = AuditLog(
        settings.audit_log,
        read_key(settings.audit_key_file),
        max_bytes=settings.audit_max_bytes,
        keeps_waiting=not settings.audit_required,
        watch=watch,
    )
    return Auditing(log, is_required=settings.audit_required)


def _admin_server(
    settings: Settings, service: SegmentationService, listener: socket.socket | None
) -> AdminServer | None:
    path = admin_keys_file(settings)
    if listener is None or path is None:
        return None
    keys = ApiKeys(path, settings.failed_keys_per_minute)
    return AdminServer(create_admin_app(service, keys), listener)
