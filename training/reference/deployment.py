"""Store the imported model twice: in float, and in integers after calibration."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from model_store.artifact import sha256_of
from model_store.conventions import Convention
from model_store.geometry import InputGeometry, window_to_uint8
from model_store.sam import PromptableSam
from training.data.dataset import load_xray, read_rows, rows_of_conventions
from training.data.prompts import tight_box
from training.export import ExportResult, check_new_version, write_deployed
from training.phantom import draw_phantom
from training.quantization.config import QatConfig
from training.quantization.fake_quantization import sampling
from training.reference.checkpoint import ReferenceModel
from training.stages.qat_stage import QatStage

UNKNOWN_LICENSE = "not stated by the imported file; ask its authors"
INTENDED_USE = (
    "For comparison with the reference work from whose checkpoint it was imported. Draws lungs on "
    "frontal chest X-rays; its quality here is unknown until it is evaluated. Not a diagnosis, not "
    "cleared as a medical device."
)

PHANTOM_SIDE = 512

LabelledPicture = tuple[NDArray[np.uint8], NDArray[np.bool_]]
"""Windowed grey values (H, W) and the mask of both lungs (H, W)."""


def calibration_pictures(
    count: int, convention: Convention, data: Path | None
) -> Iterable[LabelledPicture]:
    """Yield pictures for calibrating activation scales: X-rays of ``train``, or phantoms.

    Args:
        count: Number of pictures.
        convention: Convention of their masks.
        data: Data set; None for phantoms.

    Raises:
        DataError: The data set cannot be used.
    """
    if data is None:
        for seed in range(count):
            phantom = draw_phantom(seed, (PHANTOM_SIDE, PHANTOM_SIDE))
            yield window_to_uint8(phantom.image), phantom.mask(convention)
        return
    rows = rows_of_conventions(read_rows(data, "train"), (convention,))
    for row in rows[:: max(1, len(rows) // count)][:count]:
        xray = load_xray(row)
        yield xray.image, xray.mask


def deploy_reference(
    reference: ReferenceModel,
    path: Path,
    out: Path,
    *,
    name: str,
    version: str,
    convention: Convention,
    license_text: str,
    pictures: Iterable[LabelledPicture],
) -> tuple[ExportResult, ExportResult]:
    """Write ``out/NAME-float/VERSION`` and ``out/NAME/VERSION``.

    The reference trained only SAM's first mask token, so the stored models know one convention and
    refuse the other.

    Args:
        reference: The model; consumed.
        path: Its file, for the manifest.
        out: Folder of stored models.
        name: Name of the integer model.
        version: Version of both.
        convention: Convention of its training masks.
        license_text: Licence of the weights.
        pictures: Pictures for calibrating activation scales.

    Returns:
        The float model and the integer one.

    Raises:
        FileExistsError: A version exists; a stored version never changes.
    """
    for full_name in (f"{name}-float", name):
        check_new_version(out, full_name, version)
    facts = {**reference.facts, "sha256": sha256_of(path)}
    if convention != "lung_field":
        swap_first_tokens(reference.model)
    whole, integers = (
        _write(model, reference, facts, out, full_name, version, convention, license_text, twin)
        for model, full_name, twin in (
            (copy.deepcopy(reference.model), f"{name}-float", None),
            (quantized(reference.model, reference.architecture.input_size, pictures), name,
             f"{name}-float/{version}"),
        )
    )  # fmt: skip
    return whole, integers


def _write(
    model: PromptableSam, reference: ReferenceModel, facts: dict[str, object], out: Path,
    name: str, version: str, convention: Convention, license_text: str, twin: str | None,
) -> ExportResult:  # fmt: skip
    return write_deployed(
        model, reference.architecture, out, name=name, version=version,
        training={"stages": [facts]}, float_twin=twin, conventions=(convention,),
        license_text=license_text, intended_use=INTENDED_USE, keeps_float32=True,
    )  # fmt: skip


@torch.no_grad()
def swap_first_tokens(model: PromptableSam) -> None:
    """Swap mask tokens 0 and 1; masks stay the same under the other number."""
    decoder = model.mask_decoder
    last = decoder.iou_prediction_head.layers[-1]
    for tensor in (decoder.mask_tokens.weight, last.weight, last.bias):
        tensor[:2] = tensor[:2].flip(0)
    networks = decoder.output_hypernetworks_mlps
    networks[0], networks[1] = networks[1], networks[0]


@torch.no_grad()
def quantized(
    model: PromptableSam, input_size: int, pictures: Iterable[LabelledPicture]
) -> PromptableSam:
    """Add fake quantization to a model, with scales calibrated on pictures one at a time."""
    stage = QatStage(model, QatConfig())
    model.eval()
    with sampling(stage.layers.values()):
        for image, mask in pictures:
            geometry = InputGeometry(image.shape[1], image.shape[0], input_size)
            pixels = torch.from_numpy(geometry.image_to_input(image))[None, None]
            valid = torch.from_numpy(geometry.valid_region())[None, None]
            whole = (0.0, 0.0, float(image.shape[1]), float(image.shape[0]))
            boxes = [geometry.box_to_input(box) for box in (tight_box(mask) or whole, whole)]
            index = torch.zeros(len(boxes), dtype=torch.int64)
            model(model.normalize(pixels, valid), torch.tensor(boxes), index)
    return model
