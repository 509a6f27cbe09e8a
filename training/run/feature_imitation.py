"""Imitation of a teacher's intermediate features beside its masks (FitNets, Romero et al. 2015).

A mask says little about which of a hundred rounded layers is wrong. The output of each block shows
the error block by block, so a few hundred steps suffice for weights of few levels.
"""

from __future__ import annotations

from torch import Tensor, nn

from model_store.sam import PromptableSam


class FeatureImitation:
    """Compares the outputs of the image encoder's blocks and neck in two models of one shape."""

    def __init__(self, student: PromptableSam, teacher: PromptableSam, weight: float) -> None:
        """Observe both models from now on; ``weight`` multiplies the loss."""
        self._weight = weight
        self._learned, self._taught = _Outputs(student), _Outputs(teacher)

    def loss(self) -> Tensor:
        """Return the weighted sum, over the outputs, of squared error over the teacher's power.

        It uses the last pass of each model, which must have had the same images.
        """
        terms = [
            (own.float() - wanted.float()).square().mean() / wanted.float().square().mean()
            for own, wanted in zip(self._learned.tensors, self._taught.tensors, strict=True)
        ]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return self._weight * total


class _Outputs:
    """The outputs of each block and the neck of a model in its last pass."""

    def __init__(self, model: PromptableSam) -> None:
        encoder = model.image_encoder
        self._found: dict[int, Tensor] = {}
        for place, module in enumerate([*encoder.blocks, encoder.neck]):
            module.register_forward_hook(self._keep(place))

    @property
    def tensors(self) -> list[Tensor]:
        return [self._found[place] for place in sorted(self._found)]

    def _keep(self, place: int):  # type: ignore[no-untyped-def]
        def hook(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
            self._found[place] = output

        return hook
