"""The subject of a report: a stored model, or a training run with its best weights deployed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from model_store.artifact import MANIFEST_FILE
from model_store.manifest import Manifest
from model_store.predictor import Predictor
from model_store.quantizable import replace_module
from training.adapters.adapted_model import find_layers
from training.checkpoint import BEST
from training.errors import CheckpointError
from training.evaluation.evaluation import load_float_twin
from training.export import write_deployed
from training.quantization.fake_quantization import FakeQuantized
from training.stages.base import load_base
from training.stages.trained_on import training_data_of


@dataclass(frozen=True)
class Subject:
    """A loaded model to be measured.

    Attributes:
        twin: The float model for comparison, or None.
        twin_is: Description of the float model, a sentence.
        run: Folder of the run, or None for a stored model.
    """

    title: str
    predictor: Predictor
    twin: Predictor | None
    twin_is: str
    run: Path | None

    @property
    def manifest(self) -> Manifest:
        """The manifest of the model."""
        return self.predictor.info.manifest


def open_subject(path: Path, data_root: Path, device: str, work: Path) -> Subject:
    """Open a stored model or a run.

    Args:
        path: Folder of a stored model, or of a run.
        data_root: The data set, for the list of a run's training data.
        device: ``auto``, ``cpu`` or ``cuda``.
        work: Empty folder in which a run's best weights are deployed.

    Raises:
        ArtifactError: The stored model is refused.
        CheckpointError: The folder is neither, or its checkpoint cannot be used.
    """
    if (path / MANIFEST_FILE).is_file():
        predictor = Predictor.load(path, device)
        twin = load_float_twin(path, predictor, device)
        text = f"FP32 is {predictor.info.manifest.float_twin}, from which stage 2 trained on."
        name = f"{predictor.info.name} {predictor.info.version}"
        return Subject(name, predictor, twin, text if twin else "", None)
    if not (path / BEST).is_file():
        raise CheckpointError(
            f"{path} is neither a stored model ({MANIFEST_FILE}) nor a run with a {BEST}"
        )
    return _open_run(path, data_root, device, work)


def _open_run(path: Path, data_root: Path, device: str, work: Path) -> Subject:
    base = load_base(path)
    quantized = bool(find_layers(base.model, FakeQuantized))
    recipe = {"stages": list(base.lineage)}
    data, _ = training_data_of(base, None if base.trained_on else data_root)
    folder = write_deployed(
        base.model, base.architecture, work, name="run", version="1", training_data=data,
        training=recipe,
    ).folder  # fmt: skip
    predictor = Predictor.load(folder, device)
    if not quantized:
        return Subject(f"run {path.name}", predictor, None, "", path)
    again = load_base(path)
    for name, layer in find_layers(again.model, FakeQuantized).items():
        replace_module(again.model, name, layer.source)
    floating = write_deployed(again.model, again.architecture, work, name="run-float", version="1")
    twin = Predictor.load(floating.folder, device)
    text = "FP32 is the same checkpoint without quantization: the difference is rounding alone."
    return Subject(f"run {path.name}", predictor, twin, text, path)
