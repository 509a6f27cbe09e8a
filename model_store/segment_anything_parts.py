"""The building blocks of ``segment_anything.modeling``, loaded without their parent package.

``import segment_anything`` runs an ``__init__`` that imports torchvision, whose PyPI build does
not load beside a CPU build of torch. Only the ``modeling`` subpackage is needed here and it
needs torch alone, so it is loaded from its folder under a name of our own. The private name
leaves a real ``import segment_anything`` elsewhere in the process untouched.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

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

ImageEncoderViT = _modeling.ImageEncoderViT
MaskDecoder = _modeling.MaskDecoder
PromptEncoder = _modeling.PromptEncoder
TwoWayTransformer = _modeling.TwoWayTransformer

__all__ = ["ImageEncoderViT", "MaskDecoder", "PromptEncoder", "TwoWayTransformer"]
