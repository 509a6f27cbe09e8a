"""The ways to adapt a base that AdaLoRA is compared with, each through the one loop."""

from pathlib import Path

import pytest
import torch
from torch import nn

from model_store.artifact import load_model
from tests.tiny_models import make_tiny_config, make_tiny_model
from training.__main__ import main
from training.adapters.adapted_model import add_adapters, add_lora, find_layers, merge_adapters
from training.adapters.config import AdaLoraConfig, LoraConfig
from training.adapters.lora import LoraLinear
from training.config import RunConfig, parse_config
from training.errors import ConfigError
from training.stages.baseline_stages import build_stage1

CONFIGS = Path(__file__).parents[2] / "training" / "configs"


def make_config(method: str) -> RunConfig:
    return parse_config(
        {"stage": "stage1", "steps": 300, "adaptation": {"method": method}, "lora": {"rank": 4}}
    )


def trained_parts(method: str) -> dict[str, int]:
    """Number of parameters that train, per part of the model."""
    stage = build_stage1(make_tiny_model(), make_config(method))
    counts: dict[str, int] = {}
    for name, parameter in stage.named_parameters():
        part = name.partition(".")[0]
        counts[part] = counts.get(part, 0) + parameter.numel()
    return counts


def test_each_method_trains_what_its_name_says() -> None:
    parts = {m: trained_parts(m) for m in ("adalora", "lora", "decoder_only", "full")}
    encoder = sum(p.numel() for p in make_tiny_model().image_encoder.parameters())
    slices = 2 * 3  # blocks, of q, k and v each
    assert parts["decoder_only"].get("image_encoder") is None
    assert parts["full"]["image_encoder"] == encoder
    assert parts["lora"]["image_encoder"] == slices * 4 * (32 + 32)
    assert parts["adalora"]["image_encoder"] == slices * 12 * (32 + 1 + 32)
    assert len({p["mask_decoder"] for p in parts.values()}) == 1
    assert len({p["prompt_encoder"] for p in parts.values()}) == 1


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ConfigError, match="'dora'; it must be one of adalora, lora"):
        make_config("dora")


def test_a_fresh_lora_changes_nothing_and_learns_from_the_first_step() -> None:
    layer = nn.Linear(16, 48)
    values = torch.randn(4, 16)
    wanted = layer(values)
    adapter = LoraLinear(layer, LoraConfig(rank=4))
    assert torch.equal(adapter(values), wanted)
    adapter(values).square().sum().backward()
    assert adapter.B.grad is not None and adapter.B.grad.abs().sum() > 0
    assert adapter.A.grad is not None and not adapter.A.grad.any()  # B is 0
    assert adapter.base.weight.grad is None


def test_the_folded_weight_of_lora_is_the_formula() -> None:
    layer = nn.Linear(16, 48)
    adapter = LoraLinear(layer, LoraConfig(rank=4, alpha=8.0, targets=("q", "v")))
    adapter.B.data.normal_()
    delta = (adapter.folded_weight() - layer.weight).detach().double()
    b, a = adapter.B.detach().double(), adapter.A.detach().double()
    torch.testing.assert_close(delta[:16], b[0] @ a[0] * 2, rtol=1e-5, atol=1e-6)
    assert not delta[16:32].any()
    torch.testing.assert_close(delta[32:], b[1] @ a[1] * 2, rtol=1e-5, atol=1e-6)


def test_a_lora_rank_beyond_the_width_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"lora.rank 17 exceeds the layer's width 16"):
        LoraLinear(nn.Linear(16, 48), LoraConfig(rank=17))


@pytest.mark.parametrize("adapt", ["lora", "adalora"])
def test_every_linear_layer_of_a_block_can_be_adapted_and_merged(adapt: str) -> None:
    targets = ("q", "v", "proj", "lin1", "lin2")
    model = make_tiny_model()
    images = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        before = model.encode_image(images)
        if adapt == "lora":
            for lora in add_lora(model, LoraConfig(rank=3, targets=targets)).values():
                lora.B.data.normal_()
        else:
            config = AdaLoraConfig(initial_rank=3, target_rank=2, targets=targets)
            for adalora in add_adapters(model, config).values():
                adalora.singular.data.normal_()
        wanted = model.encode_image(images)
        merge_adapters(model)
        torch.testing.assert_close(model.encode_image(images), wanted)
    assert not torch.allclose(before, wanted)
    assert model.state_dict().keys() == make_tiny_model().state_dict().keys()


def test_unknown_targets_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"lora.targets \['mlp'\] must name one or more of q"):
        LoraConfig(targets=("mlp",))
    with pytest.raises(ConfigError, match=r"adalora.targets \[\] must name one"):
        AdaLoraConfig(targets=())


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("methods")
    assert main(["phantoms", "--out", str(folder / "data"),
                 "--train", "4", "--val", "2", "--test", "2"]) == 0  # fmt: skip
    torch.save(
        {
            "model": make_tiny_model().state_dict(),
            "architecture": make_tiny_config().to_dict(),
            "stage": "pretrain",
            "stage_state": {},
            "step": 1,
            "best": 0.0,
            "config": parse_config({"stage": "pretrain", "steps": 1}).to_dict(),
        },
        folder / "base.pt",
    )
    return folder


def run(work: Path, stage: str, base: str, out: str, *settings: str) -> int:
    settings = (f"data.root={work / 'data'}", "data.workers=0", "batch_size=2", *settings)
    return main(
        [stage, "--config", str(CONFIGS / f"miniature_{stage}.toml"), "--device", "cpu",
         "--base", str(work / base), "--run", str(work / out),
         *(part for setting in settings for part in ("--set", setting))]
    )  # fmt: skip


@pytest.mark.parametrize("method", ["lora", "decoder_only", "full", "adalora"])
def test_every_method_is_quantized_with_and_without_training(work: Path, method: str) -> None:
    targets = 'adalora.targets=["q", "v", "lin2"]'
    stage1 = (f"adaptation.method={method}", "steps=8", targets, "lora.rank=3")
    assert run(work, "stage1", "base.pt", method, *stage1) == 0
    assert run(work, "stage2", method, f"{method}_ptq", "steps=0") == 0
    assert run(work, "stage2", method, f"{method}_qat", "steps=2") == 0
    for suffix, precision in (("", "float"), ("_ptq", "int8"), ("_qat", "int8")):
        run_name = f"{method}{suffix}"
        name = run_name.replace("_", "-")
        assert main(["export", "--run", str(work / run_name), "--name", name, "--version", "1",
                     "--out", str(work / "models"), "--data", str(work / "data")]) == 0  # fmt: skip
        model, manifest = load_model(work / "models" / name / "1")
        assert set(manifest.quantization.layers.values()) == {precision}
        assert find_layers(model, LoraLinear) == {}
        assert manifest.training["stages"][1]["method"] == method


def test_quantizing_without_training_moves_nothing_but_the_scales(work: Path) -> None:
    assert run(work, "stage1", "base.pt", "still", "adaptation.method=lora", "steps=2") == 0
    assert run(work, "stage2", "still", "still_ptq", "steps=0") == 0
    before = torch.load(work / "still" / "best.pt", weights_only=True)["model"]
    after = torch.load(work / "still_ptq" / "best.pt", weights_only=True)["model"]
    scales = [value for name, value in after.items() if name.endswith("log_scale")]
    assert scales and all(float(scale) != 0.0 for scale in scales)
    unwrapped = {name.replace("source.", ""): value for name, value in after.items()}
    for name, value in before.items():
        assert torch.equal(unwrapped[name], value), name


def test_only_stage2_may_have_no_steps() -> None:
    assert parse_config({"stage": "stage2", "steps": 0}).steps == 0
    with pytest.raises(ConfigError, match="steps is 0; it must be at least 1"):
        parse_config({"stage": "stage1", "steps": 0})
