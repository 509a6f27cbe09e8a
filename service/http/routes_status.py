"""Routes for operators and monitors: liveness, readiness, models and metrics."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from prometheus_client.exposition import choose_encoder

from model_store.model_info import ModelInfo
from model_store.structures import LUNGS
from service import errors
from service.compute.model_handle import SegmentationModel
from service.http.key_file import KeyScope
from service.http.keys import ApiKeys
from service.http.problems import KEY_REFUSALS, problem_responses
from service.http.schemas import (
    Limits,
    LivenessAnswer,
    ModelAnswer,
    ModelsAnswer,
    ReadinessAnswer,
    SelfTestReport,
    ServedModel,
)
from service.pipeline.model_generations import Generation, ModelGenerations
from service.pipeline.segmentation import SegmentationService, identity_of

_NamedModel = Annotated[
    str | None, Query(description="name/version, or a name for the first of it; none: the first")
]


def add_status_routes(
    router: APIRouter, service: SegmentationService, keys: ApiKeys | None
) -> None:
    """Add the routes about the process.

    Args:
        router: router that gets the routes.
        service: service that they describe.
        keys: API keys for the model's card; None if no key is required.
    """

    async def liveness() -> LivenessAnswer:
        return LivenessAnswer(status="alive")

    async def readiness() -> ReadinessAnswer:
        service.readiness.require_ready()
        model = _proven_model(service.models.first)
        figures = service.readiness.self_test
        agreement = figures.agreement if figures is not None else 0.0
        seconds = figures.seconds if figures is not None else 0.0
        return ReadinessAnswer(
            status="ready",
            model=identity_of(model.info),
            device=model.info.device,
            engine=model.info.engine,
            threads=service.host.threads,
            agreement=agreement,
            self_test=SelfTestReport(passed=True, agreement=agreement, seconds=seconds),
            fallback=model.info.fallback_reason,
            models=_served_models(service),
        )

    async def model_card(request: Request, model: _NamedModel = None) -> ModelAnswer:
        if keys is not None:
            keys.admit(request, *KeyScope)
        service.readiness.require_some_model()
        return _model_card(service, service.models.named(model))

    async def all_models(request: Request) -> ModelsAnswer:
        if keys is not None:
            keys.admit(request, *KeyScope)
        service.readiness.require_some_model()
        return ModelsAnswer(models=_served_models(service))

    async def metrics(request: Request) -> Response:
        if keys is not None and service.settings.metrics_key:
            keys.admit(request, KeyScope.METRICS)
        service.show_served()
        encode, media_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(service.metrics.registry), headers={"Content-Type": media_type})

    not_ready = problem_responses(errors.NotReady, errors.Draining)
    key_refusals = (errors.MissingKey, *KEY_REFUSALS)
    card_refusals = problem_responses(*key_refusals, errors.NotReady, errors.Draining)
    text = {"schema": {"type": "string"}}
    metrics_answer: dict[int | str, dict[str, Any]] = {
        200: {
            "description": "Prometheus text format.",
            "content": {"text/plain": text},
        }
    }
    if service.settings.metrics_key:
        metrics_answer |= problem_responses(*key_refusals)
    _add(router, ("/livez", "/health"), liveness, "Is the process alive?", {})
    _add(router, ("/readyz", "/healthz"), readiness, "May it answer with masks?", not_ready)
    one_refusals = problem_responses(
        *key_refusals, errors.UnknownModel, errors.NotReady, errors.Draining
    )
    _add(router, ("/v1/model",), model_card, "A model's card and the limits", one_refusals)
    _add(router, ("/v1/models",), all_models, "The models that are served", card_refusals)
    _add(router, ("/metrics",), metrics, "Prometheus metrics", metrics_answer)


def _add(
    router: APIRouter,
    paths: tuple[str, ...],
    answer: Any,
    summary: str,
    responses: dict[int | str, dict[str, Any]],
) -> None:
    """Add a route for GET, with its aliases, and for HEAD, which some balancers use for probes."""
    for path in paths:
        name = path.strip("/").replace("/", "_")
        router.add_api_route(
            path,
            answer,
            methods=["GET"],
            operation_id=name,
            tags=["operation"],
            summary=summary,
            responses=responses,
        )
        router.add_api_route(path, answer, methods=["HEAD"], include_in_schema=False)


def _proven_model(served: ModelGenerations) -> SegmentationModel:
    model = served.served.host.model
    if model is None:
        raise errors.NotReady("The model is loading.", retry_after_s=2)
    return model


def _served_models(service: SegmentationService) -> tuple[ServedModel, ...]:
    return tuple(
        _served_model(one.served, info, service.models.is_ready(number))
        for number, one in enumerate(service.models.each)
        if (info := one.served.host.identity) is not None
    )


def _served_model(generation: Generation, info: ModelInfo, is_ready: bool) -> ServedModel:
    test = generation.readiness.self_test
    return ServedModel(
        model=identity_of(info),
        is_ready=is_ready,
        engine=info.engine,
        devices=tuple(one.info.device for one in generation.host.models),
        conventions=tuple(info.manifest.conventions),
        structures=(LUNGS, *(one for one in info.manifest.structures if one != LUNGS)),
        self_test=None
        if test is None
        else SelfTestReport(passed=True, agreement=test.agreement, seconds=test.seconds),
    )


def _model_card(service: SegmentationService, served: ModelGenerations) -> ModelAnswer:
    model = _proven_model(served)
    settings = service.settings
    return ModelAnswer(
        model=identity_of(model.info),
        conventions=tuple(model.info.manifest.conventions),
        limits=Limits(
            max_upload_bytes=settings.max_upload_bytes,
            max_pixels=settings.max_pixels,
            max_boxes=settings.max_boxes,
            request_timeout_s=settings.request_timeout_s,
            queue_limit=settings.queue_limit,
            max_batch=settings.max_batch,
        ),
        devices=tuple(one.info.device for one in served.served.host.models),
        manifest=model.info.manifest.model_dump(mode="json"),
    )
