"""JSON bodies of problems, probes and the model's card."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from service.imaging.answer_schema import Answer, ModelIdentity


class Problem(Answer):
    """An error (RFC 9457 problem details)."""

    type: str = Field(description="always about:blank: the status and `code` say what it is")
    title: str = Field(description="short title of the kind of problem")
    status: int = Field(description="the HTTP status again")
    detail: str = Field(description="one sentence on this occurrence that says what to do")
    code: str = Field(description="stable code for programs, for example invalid_box")
    request_id: str = Field(description="id of this request; the operator finds it in the log")
    error: str = Field(description="the same sentence as `detail`")


class LivenessAnswer(Answer):
    """The process runs and answers."""

    status: str = Field(examples=["alive"])


class SelfTestReport(Answer):
    """Result of the golden-mask self test at start."""

    passed: bool
    agreement: float = Field(description="share of pixels equal to the golden mask, 0 to 1")
    seconds: float = Field(description="duration of the forward pass")


class ServedModel(Answer):
    """One of several served models."""

    model: ModelIdentity
    is_ready: bool = Field(description="whether it gives masks now")
    engine: str = Field(description="what executes it", examples=["openvino"])
    devices: tuple[str, ...] = Field(
        description="where it runs and is proven, a compute process each", examples=[["cpu"]]
    )
    conventions: tuple[str, ...] = Field(examples=[["lung_field", "whole_lung"]])
    structures: tuple[str, ...] = Field(examples=[["lungs", "heart"]])
    self_test: SelfTestReport | None = Field(description="the latest that it passed")


class ModelsAnswer(Answer):
    """The models that are served; the first answers requests that name none."""

    models: tuple[ServedModel, ...]


class ReadinessAnswer(Answer):
    """The process answers with masks."""

    status: str = Field(examples=["ready"])
    model: ModelIdentity
    device: str = Field(description="where the model runs", examples=["cpu"])
    engine: str = Field(description="what executes it", examples=["openvino"])
    threads: int = Field(description="CPU threads of the model", examples=[3])
    agreement: float = Field(description="the self test's agreement again, 0 to 1")
    self_test: SelfTestReport
    fallback: str | None = Field(
        description="Why a GPU runs the model by slower means than its fused kernels. The masks "
        "are held to the same golden mask. Null when nothing fell back.",
        examples=[None],
    )
    models: tuple[ServedModel, ...] = Field(
        description="all models that are served, the one above first"
    )


class Limits(Answer):
    """The limits of one request."""

    max_upload_bytes: int
    max_pixels: int
    max_boxes: int
    request_timeout_s: float
    queue_limit: int
    max_batch: int


class ModelAnswer(Answer):
    """The model's card and the limits of this service."""

    model: ModelIdentity
    conventions: tuple[str, ...] = Field(examples=[["lung_field", "whole_lung"]])
    limits: Limits
    devices: tuple[str, ...] = Field(
        description="where the model runs and is proven, a compute process each",
        examples=[["cuda:0", "cuda:1"]],
    )
    manifest: dict[str, Any] = Field(
        description="the artifact's manifest: architecture, training data, licences, measured "
        "quality, intended use"
    )
