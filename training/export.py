"""Export a checkpoint as a stored model: adapters folded, integers on disk, with a manifest.

Stage 2 becomes an INT8 model. A float checkpoint (stage 1, or pretrain) becomes a float model,
stored as float16: the FP32 side of every comparison, the same network before quantization.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError

import model_store
from model_store.architecture import SamConfig
from model_store.artifact import (
    FLOAT_SCHEME,
    MANIFEST_FILE,
    WEIGHTS_FILE,
    load_model,
    packed_tensors,
    sha256_of,
    write_manifest,
    write_weights,
)
from model_store.conventions import CONVENTIONS, Convention, default_of, token_of
from model_store.geometry import PREPROCESSING_VERSION, Box
from model_store.integers import SCHEME
from model_store.manifest import (
    NAME_PATTERN,
    VERSION_PATTERN,
    Manifest,
    QualityHeadFile,
    Quantization,
    SelfTest,
    TrainingData,
    WeightsFile,
)
from model_store.predictor import PredictionRequest, Predictor
from model_store.sam import PromptableSam
from model_store.structures import STRUCTURE_TOKENS
from training.data.prompts import tight_box
from training.errors import ConfigError, DataError
from training.evaluation.metrics import dice
from training.model_card import write_manifest_and_card
from training.phantom import draw_phantom
from training.quantization.quantized_model import packed_levels, to_deployed
from training.stages.base import load_base
from training.stages.trained_on import training_data_of

INTENDED_USE = (
    "Outlines the lungs on frontal chest X-rays of children and adults as a step of further "
    "processing or as a drawing aid that a qualified reader checks. Not a diagnosis, not for "
    "lateral views, not cleared as a medical device."
)

LICENSE = "Apache-2.0"

GOLDEN_SEED = 7
GOLDEN_SIZE = 512


@dataclass(frozen=True)
class ExportResult:
    """The result of an export.

    Attributes:
        folder: The stored model.
        size_bytes: Size of the folder.
        float_size_bytes: Size of the same weights in float32.
        golden_dice: Dice of the model's golden mask with the phantom's true mask.
    """

    folder: Path
    size_bytes: int
    float_size_bytes: int
    golden_dice: float


def export_checkpoint(
    checkpoint: Path,
    out: Path,
    name: str,
    version: str,
    data_root: Path | None,
    float_twin: str | None,
    structures: Sequence[str] = (),
    quality_head: Path | None = None,
) -> ExportResult:
    """Write ``out/name/version`` from a checkpoint or run folder.

    Args:
        checkpoint: Checkpoint or run folder.
        out: Folder of stored models.
        name: Name of the model.
        version: Version, a whole number.
        data_root: The data set that it was trained on: required if the checkpoint lacks a record of
            its rows, otherwise compared with that record.
        float_twin: ``name/version`` of the same model before quantization, stored in ``out``.
        structures: Structures beside the lungs that it was trained on.
        quality_head: Folder that ``python -m training quality-head`` wrote for this model.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        ConfigError: Name, version or twin is invalid.
        DataError: It was trained on another structure, which the service would present as lungs, or
            on another data set than ``data_root``.
        FileExistsError: The version exists; a stored version never changes.
        OSError: It could not be written; nothing stays on disk.
    """
    check_new_version(out, name, version)
    _check_twin(out, float_twin)
    base = load_base(checkpoint)
    structure = base.lineage[-1].get("structure", "lungs")
    if structure != "lungs":
        raise DataError(f"{checkpoint} was trained on {structure}; stored models segment lungs")
    data, counted = training_data_of(base, data_root)
    return write_deployed(
        base.model,
        base.architecture,
        out,
        name=name,
        version=version,
        training_data=data,
        training={"stages": list(base.lineage), "training_data": counted},
        float_twin=float_twin,
        structures=structures,
        quality_head=quality_head,
    )


def copied_head(source: Path, folder: Path) -> QualityHeadFile:
    """Copy a quality head into the folder of a model; return its entry for the manifest.

    Raises:
        DataError: The folder has no head, or another one than its record describes.
    """
    try:
        record = json.loads((source / "quality_head.json").read_text(encoding="utf-8"))
        named = QualityHeadFile(
            sha256=record["sha256"], labels=tuple(record["labels"]), limits=record["limits"]
        )
        shutil.copyfile(source / named.file, folder / named.file)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{source} holds no quality head: {error}") from error
    if sha256_of(folder / named.file) != named.sha256:
        raise DataError(f"{source}: its record describes another quality head")
    return named


def check_new_version(out: Path, name: str, version: str) -> None:
    """Refuse a name that is not a single folder, and a version that exists.

    Raises:
        ConfigError: Name or version is invalid.
        FileExistsError: The version exists; a stored version never changes.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise ConfigError(
            f"--name is {name!r}; it must be 1 to 64 lower case letters, digits and hyphens"
        )
    if not re.fullmatch(VERSION_PATTERN, version):
        raise ConfigError(f"--version is {version!r}; it must be a whole number of 1 to 6 digits")
    folder = out / name / version
    if folder.exists():
        raise FileExistsError(f"{folder} exists; a stored version never changes, raise --version")


def _check_twin(out: Path, float_twin: str | None) -> None:
    if float_twin is None:
        return
    name, _, version = float_twin.partition("/")
    if not (re.fullmatch(NAME_PATTERN, name) and re.fullmatch(VERSION_PATTERN, version)):
        raise ConfigError(f"--float-twin is {float_twin!r}; it must be NAME/VERSION")
    if not (out / float_twin / MANIFEST_FILE).is_file():
        raise ConfigError(f"--float-twin {float_twin} is not in {out}; export it first")


def write_deployed(
    model: PromptableSam,
    architecture: SamConfig,
    out: Path,
    *,
    name: str,
    version: str,
    training_data: tuple[TrainingData, ...] = (),
    training: dict[str, Any] | None = None,
    float_twin: str | None = None,
    conventions: Sequence[Convention] = CONVENTIONS,
    structures: Sequence[str] = (),
    quality_head: Path | None = None,
    license_text: str = LICENSE,
    intended_use: str = INTENDED_USE,
    keeps_float32: bool = False,
) -> ExportResult:
    """Convert a trained model to its deployed form and write ``out/name/version``.

    Args:
        model: The model with its adapters and fake quantization; consumed.
        architecture: Its sizes.
        out: Folder of stored models.
        name: Name of the model.
        version: Version, a whole number.
        training_data: Sources of its training X-rays.
        training: Its recipe.
        float_twin: ``name/version`` of the same model before quantization, if stored.
        conventions: Conventions that it knows; requests for others are refused.
        structures: Structures that it segments beside the lungs.
        quality_head: Folder of a head fitted to this model's embedding.
        license_text: Licence of the weights.
        intended_use: Statement of purpose for manifest and card.
        keeps_float32: Whether to store a float model in float32 instead of float16, for masks that
            must equal another program's.

    Raises:
        FileExistsError: The version exists; a stored version never changes.
    """
    check_new_version(out, name, version)
    float_bytes = _float_size_bytes(model)
    levels = packed_levels(model)
    precisions = to_deployed(model)
    tensors = packed_tensors(model.state_dict(), levels)
    integers = "int8" in precisions.values()
    # With integers of few bits, float32 would take a third of the file.
    if levels or not (integers or keeps_float32):
        tensors = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
    folder = out / name / version
    with all_or_nothing(folder) as work:
        write_weights(work / WEIGHTS_FILE, tensors)
        manifest = Manifest(
            name=name,
            version=version,
            architecture=architecture.to_dict(),
            preprocessing_version=PREPROCESSING_VERSION,
            conventions={name: token_of(name) for name in conventions},
            structures={name: STRUCTURE_TOKENS[name] for name in structures},
            quality_head=None if quality_head is None else copied_head(quality_head, work),
            quantization=Quantization(
                scheme=SCHEME if integers else FLOAT_SCHEME,
                layers=precisions,
                weight_levels=levels,
            ),
            weights=WeightsFile(
                sha256=sha256_of(work / WEIGHTS_FILE),
                size_bytes=(work / WEIGHTS_FILE).stat().st_size,
                float_size_bytes=float_bytes,
            ),
            training_data=training_data,
            training=training or {},
            float_twin=float_twin,
            code_version=model_store.__version__,
            license=license_text,
            intended_use=intended_use,
        )
        write_manifest(work, manifest)
        golden_dice = add_self_test(work, manifest)
    size = sum(file.stat().st_size for file in folder.iterdir())
    return ExportResult(folder, size, float_bytes, golden_dice)


@contextmanager
def all_or_nothing(folder: Path) -> Iterator[Path]:
    """Yield a hidden folder, which becomes ``folder`` when the block succeeds.

    Raises:
        OSError: Something could not be written; nothing stays on disk.
    """
    made = [parent for parent in (folder.parent, folder.parent.parent) if not parent.exists()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = folder.parent / f".{folder.name}.{os.getpid()}.partial"
    work.mkdir()
    try:
        yield work
        for file in work.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        work.rename(folder)
    except (OSError, SafetensorError) as error:
        raise OSError(f"{folder} cannot be written, nothing of it is left: {error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if not folder.exists():
            for parent in made:
                with suppress(OSError):
                    parent.rmdir()


def _float_size_bytes(model: PromptableSam) -> int:
    """Return the bytes of the plain model in float32, adapters folded, without scales."""
    adapted = (
        "P", "Q", "singular", "mask", "A", "B", "log_scale", "log_weight_scale", "unit",
    )  # fmt: skip
    kept = (t for k, t in model.state_dict().items() if k.rpartition(".")[2] not in adapted)
    return sum(4 * tensor.numel() for tensor in kept)


def add_self_test(folder: Path, manifest: Manifest) -> float:
    """Predict the stored model's golden mask on a phantom, and write it into the folder.

    Returns:
        Dice of the golden mask with the phantom's true mask.
    """
    phantom = draw_phantom(GOLDEN_SEED, (GOLDEN_SIZE, GOLDEN_SIZE))
    convention = default_of(manifest.conventions)
    truth = phantom.mask(convention)
    box: Box = tight_box(truth) or (0.0, 0.0, float(GOLDEN_SIZE), float(GOLDEN_SIZE))
    model, _ = load_model(folder)
    predictor = Predictor(model, manifest, torch.device("cpu"))
    request = PredictionRequest(phantom.image, (box,), convention)
    mask = predictor.predict(request).masks[0].mask
    image_path, mask_path = folder / "golden_image.png", folder / "golden_mask.png"
    Image.fromarray(phantom.image).save(image_path, optimize=True)
    Image.fromarray(mask.astype(np.uint8) * 255).save(mask_path, optimize=True)
    test = SelfTest(
        image_sha256=sha256_of(image_path),
        mask_sha256=sha256_of(mask_path),
        box=box,
        convention=convention,
    )
    write_manifest_and_card(folder, manifest.model_copy(update={"self_test": test}))
    return dice(mask, truth)
