"""Write a stored model as graphs for other programs: ONNX, and OpenVINO's own format (IR).

Two graphs: ``encoder`` maps a normalised image (1, C, S, S) to an embedding (1, D, G, G), once an
X-ray; ``decoder`` maps an embedding and a box (1, 4) in pixels of the input to mask logits (1, T,
4G, 4G) and predicted IoU (1, T). Preprocessing and postprocessing (windowing, padding, resampling)
are not in the graphs; see `model_store.geometry`. ONNX has float models only. OpenVINO's graphs
have the stored integers, and are those that serve on a CPU.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model_store.conventions import token_of
from model_store.geometry import Box, InputGeometry
from model_store.int8_layers import Int8Matrix
from model_store.mask_resampling import logits_above
from model_store.sam import PromptableSam
from training.data.dataset import LabelledXray
from training.errors import ConfigError

GraphFormat = Literal["onnx", "openvino"]

PARTS = ("encoder", "decoder")

ENDINGS: dict[GraphFormat, str] = {"onnx": ".onnx", "openvino": ".xml"}

_EXPORTERS = ("onnx", "onnxscript")


class BoxDecoder(nn.Module):
    """Prompt encoder and mask decoder as one graph with two inputs."""

    def __init__(self, model: PromptableSam) -> None:
        """Share the parts of ``model``."""
        super().__init__()
        self.model = model

    def forward(self, embedding: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
        """Map an embedding (1, D, G, G) and a box (1, 4) to logits and predicted IoU."""
        first = torch.zeros(1, dtype=torch.int64)
        return self.model.decode_masks(embedding, box, first)


def write_graphs(model: PromptableSam, input_size: int, kind: GraphFormat, folder: Path) -> None:
    """Write both graphs into a folder, which is created if missing.

    Args:
        model: A loaded stored model on the CPU.
        input_size: Side of its input, in pixels.
        kind: ``onnx`` or ``openvino``.
        folder: Folder without graphs, to write to.

    Raises:
        ConfigError: The folder already has a graph, an exporter is not installed, or ONNX is
            requested for integers.
    """
    paths = [folder / f"{part}{ENDINGS[kind]}" for part in PARTS]
    if any(path.exists() for path in paths):
        raise ConfigError(f"{folder} holds graphs already; choose another folder")
    write = _write_onnx if kind == "onnx" else _write_openvino
    write(model.eval(), input_size, paths)


def _write_onnx(model: PromptableSam, input_size: int, paths: Sequence[Path]) -> None:
    if any(isinstance(module, Int8Matrix) for module in model.modules()):
        raise ConfigError(
            "ONNX has no operation for these integers; export the float twin, or --format openvino"
        )
    missing = [name for name in _EXPORTERS if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"ONNX needs {' and '.join(missing)}: pip install 'adalora-qat[graphs]'")
    encoder, decoder = paths
    encoder.parent.mkdir(parents=True, exist_ok=True)
    channels = int(model.pixel_mean.shape[1])
    image = torch.zeros(1, channels, input_size, input_size)
    box = torch.tensor([[0.0, 0.0, input_size, input_size]])
    with torch.no_grad():
        embedding = model.encode_image(image)
    export_onnx(model.image_encoder, (image,), encoder, ["image"], ["embedding"])
    question = (embedding, box)
    export_onnx(BoxDecoder(model), question, decoder, ["embedding", "box"], ["logits", "iou"])


def export_onnx(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    path: Path,
    input_names: Sequence[str],
    output_names: Sequence[str],
) -> None:
    """Write a module as one ONNX file with the shapes of its inputs, silently."""
    with (
        warnings.catch_warnings(),
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),  # the exporter prints its progress
    ):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), inputs, path, input_names=list(input_names),
            output_names=list(output_names), dynamo=True, external_data=False,
        )  # fmt: skip


def _write_openvino(model: PromptableSam, input_size: int, paths: Sequence[Path]) -> None:
    import openvino

    from model_store.engine.openvino_decoder import decoder_graph
    from model_store.engine.openvino_encoder import encoder_graph

    encoder, decoder = paths
    encoder.parent.mkdir(parents=True, exist_ok=True)
    # Scales stay float32, because rounding them to float16 would move outlines.
    openvino.save_model(encoder_graph(model, input_size), encoder, compress_to_fp16=False)
    openvino.save_model(decoder_graph(model, input_size), decoder, compress_to_fp16=False)


@dataclass(frozen=True)
class GraphRunner:
    """Both graphs of a folder, executed by OpenVINO, which reads either format.

    Attributes:
        model: The model that they were made from, for its normalisation.
        input_size: Side of its input, in pixels.
        parts: The compiled encoder and decoder.
    """

    model: PromptableSam
    input_size: int
    parts: tuple[object, object]

    @classmethod
    def load(
        cls, model: PromptableSam, input_size: int, kind: GraphFormat, folder: Path
    ) -> GraphRunner:
        """Compile the graphs of a folder."""
        from model_store.engine.openvino_engine import compile_config, shared_core

        core, settings = shared_core(), compile_config(torch.get_num_threads())
        encoder, decoder = (
            core.compile_model(folder / f"{part}{ENDINGS[kind]}", "CPU", settings) for part in PARTS
        )
        return cls(model, input_size, (encoder, decoder))

    def mask(self, xray: LabelledXray, box: Box) -> NDArray[np.bool_]:
        """Return the mask of an X-ray in its own convention, bool (H, W)."""
        height, width = xray.image.shape
        geometry = InputGeometry(width, height, self.input_size)
        pixels = torch.from_numpy(geometry.image_to_input(xray.image))[None, None]
        valid = torch.from_numpy(geometry.valid_region())[None, None]
        image = self.model.normalize(pixels, valid).numpy()
        encoder, decoder = self.parts
        embedding = encoder([image])[0]  # type: ignore[operator]
        prompt = np.array([geometry.box_to_input(box)], np.float32)
        logits = decoder([embedding, prompt])[0]  # type: ignore[operator]
        return logits_above(np.array(logits[0, token_of(xray.convention)]), geometry, 0.0)
