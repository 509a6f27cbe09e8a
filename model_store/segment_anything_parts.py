"""The building blocks of ``segment_anything.modeling``, loaded without their parent package.

``import segment_anything`` runs an ``__init__`` that imports torchvision, whose PyPI build does not
load beside a CPU build of torch. Only the ``modeling`` subpackage is needed here and it needs torch
alone, so it is loaded from its folder under a private name. A real ``import segment_anything``
elsewhere in the process still works.

One function is replaced. The original computes indices of relative positions on the CPU at every
call. A GPU then waits for the copy, which a CUDA graph cannot record at all.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

_PRIVATE_NAME = "_segment_anything_modeling"


def _load_modeling() -> ModuleType:
    if _PRIVATE_NAME in sys.modules:
        return sys.modules[_PRIVATE_NAME]
    parent = importlib.util.find_spec("segment_anything")  # finds, does not execute
    if parent is None or not parent.submodule_search_locations:
        raise ImportError("the package 'segment-anything' is not installed")
    folder = Path(parent.submodule_search_locations[0]) / "modeling"
    spec = importlib.util.spec_from_file_location(
        _PRIVATE_NAME, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"segment-anything at {folder} has no 'modeling' subpackage")
    module = importlib.util.module_from_spec(spec)
    sys.modules[_PRIVATE_NAME] = module
    spec.loader.exec_module(module)
    return module


_modeling = _load_modeling()
_original_get_rel_pos = _modeling.image_encoder.get_rel_pos


def _get_rel_pos(q_size: int, k_size: int, rel_pos: Tensor) -> Tensor:
    """Pick each pair's relative position, (Q, K, C), from a table (L, C) on the table's device."""
    if q_size != k_size or len(rel_pos) != 2 * q_size - 1:
        picked: Tensor = _original_get_rel_pos(q_size, k_size, rel_pos)
        return picked
    places = torch.arange(q_size, device=rel_pos.device)
    return rel_pos[places[:, None] - places[None, :] + (k_size - 1)]


_modeling.image_encoder.get_rel_pos = _get_rel_pos

ImageEncoderViT = _modeling.ImageEncoderViT
MaskDecoder = _modeling.MaskDecoder
PromptEncoder = _modeling.PromptEncoder
TwoWayTransformer = _modeling.TwoWayTransformer

__all__ = ["ImageEncoderViT", "MaskDecoder", "PromptEncoder", "TwoWayTransformer"]
