"""What stage 1 learned, loaded by ``peft``: the same masks."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from model_store.sam import PromptableSam
from tests.tiny_models import images, make_tiny_model
from training.__main__ import main
from training.adapters.adalora import AdaLoraLinear
from training.adapters.adapted_model import add_adapters, find_layers
from training.adapters.config import AdaLoraConfig
from training.adapters.peft_folder import write_peft_folder
from training.errors import ConfigError

TARGETS = (("q", "k", "v"), ("q", "v", "proj", "lin1", "lin2"))


def trained(targets: tuple[str, ...]) -> tuple[PromptableSam, PromptableSam]:
    """Return a base and the same with adapters, some of them cut, and another decoder."""
    base = make_tiny_model()
    model = copy.deepcopy(base)
    add_adapters(model, AdaLoraConfig(initial_rank=4, target_rank=2, targets=targets))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for layer in find_layers(model, AdaLoraLinear).values():
            layer.singular.copy_(torch.randn(layer.singular.shape, generator=generator))
            layer.mask.copy_(torch.rand(layer.mask.shape, generator=generator) < 0.6)
            layer.frozen_mask = True
        for parameter in model.mask_decoder.parameters():
            parameter.mul_(1.1)
    return base, model.eval()


@pytest.mark.parametrize("targets", TARGETS)
@torch.no_grad()
def test_peft_loads_the_folder_and_gives_the_same_outputs(
    targets: tuple[str, ...], tmp_path: Path
) -> None:
    base, model = trained(targets)
    write_peft_folder(model, tmp_path)
    question = (images(2), torch.tensor([[4.0, 4.0, 60.0, 60.0]] * 2), torch.arange(2))
    before, wanted = base(*question)[0], model(*question)[0]
    loaded = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    assert (before - wanted).abs().max() > 0.1
    torch.testing.assert_close(loaded(*question)[0], wanted, atol=1e-4, rtol=1e-4)
    merged = loaded.merge_and_unload()
    torch.testing.assert_close(merged(*question)[0], wanted, atol=1e-4, rtol=1e-4)


def test_a_model_without_adapters_and_a_used_folder_are_refused(tmp_path: Path) -> None:
    base, model = trained(TARGETS[0])
    with pytest.raises(ConfigError, match="no AdaLoRA adapters"):
        write_peft_folder(base, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    write_peft_folder(model, tmp_path / "one")
    with pytest.raises(ConfigError, match="holds an adapter already"):
        write_peft_folder(model, tmp_path / "one")


def test_the_command_refuses_a_run_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["peft", "--run", str(tmp_path / "x"), "--out", str(tmp_path / "y")]) == 2
    assert "does not exist" in capsys.readouterr().err
