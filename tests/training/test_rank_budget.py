"""The budget of ranks holds at every step, whatever the schedule and the gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from training.__main__ import main
from training.adapters.adalora import AdaLoraLinear
from training.adapters.adapted_linear import LAYER_SLICES
from training.adapters.config import AdaLoraConfig
from training.adapters.rank_allocator import RankAllocator
from training.config import parse_config
from training.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "training" / "configs"
WIDTH = 8
HEIGHTS = {"attn.qkv": 3 * WIDTH, "attn.proj": WIDTH, "mlp.lin1": 4 * WIDTH, "mlp.lin2": WIDTH}
SMALL = st.integers(0, 6)


@st.composite
def schedules(draw: st.DrawFn) -> tuple[AdaLoraConfig, int]:
    """Settings of any possible schedule, and the steps of its run."""
    initial = draw(st.integers(1, WIDTH))
    targets = draw(
        st.sets(st.sampled_from(["q", "k", "v", "proj", "lin1"]), min_size=1).map(sorted)
    )
    config = AdaLoraConfig(
        initial_rank=initial,
        target_rank=draw(st.integers(1, initial)),
        warmup_steps=draw(SMALL),
        final_steps=draw(st.integers(1, 6)),
        interval_steps=draw(st.integers(1, 9)),
        targets=tuple(targets),
        allocation=draw(st.sampled_from(["importance", "uniform", "random"])),
    )
    return config, config.warmup_steps + config.final_steps + draw(st.integers(1, 25))


def make_layers(config: AdaLoraConfig, blocks: int) -> dict[str, AdaLoraLinear]:
    return {
        f"{block}.{path}": AdaLoraLinear(nn.Linear(WIDTH, HEIGHTS[path]), config, slices)
        for block in range(blocks)
        for path, slices in LAYER_SLICES.items()
        if set(slices) & set(config.targets)
    }


def give_gradients(layers: dict[str, AdaLoraLinear], kind: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for layer in layers.values():
        for factor in layer.factors():
            gradient = torch.randn(factor.shape, generator=generator)
            if kind == "coarse":  # many equal scores
                gradient = gradient.round()
            factor.grad = torch.zeros_like(factor) if kind == "zero" else gradient
        with torch.no_grad():
            layer.singular.normal_(generator=generator)
            if kind == "coarse":
                for factor in layer.factors():
                    factor.round_()


def kept_after(allocation: str, gradient: str = "smooth") -> dict[str, torch.Tensor]:
    """Masks at the end of six steps, the second layer's gradients far larger; 8 to 3 a slice."""
    config = AdaLoraConfig(
        initial_rank=8, target_rank=3, warmup_steps=0, final_steps=1, interval_steps=1,
        allocation=allocation,  # type: ignore[arg-type]
    )  # fmt: skip
    torch.manual_seed(1)
    layers = make_layers(config, 2)
    allocator = RankAllocator(layers, config, 6)
    for step in range(6):
        give_gradients(layers, gradient, step)
        for factor in layers["1.attn.qkv"].factors():
            assert factor.grad is not None
            factor.grad *= 100
        allocator.observe_gradients()
        assert allocator.allocate(step) == allocator.budget(step)
    return {name: layer.mask for name, layer in layers.items()}


def test_uniform_ranks_are_equal_in_every_slice_and_keep_the_slices_best() -> None:
    uniform, important = kept_after("uniform"), kept_after("importance")
    assert all((mask.sum(dim=1) == 3).all() for mask in uniform.values())
    assert important["1.attn.qkv"].sum() > important["0.attn.qkv"].sum()
    # Of one slice both keep the best: the smaller choice lies in the larger one.
    assert (uniform["1.attn.qkv"] <= important["1.attn.qkv"]).all()


def test_random_ranks_do_not_follow_the_gradients() -> None:
    drawn = kept_after("random")
    assert sum(mask.sum() for mask in drawn.values()) == 2 * 3 * 3
    other_gradients = kept_after("random", "coarse")
    assert all(torch.equal(mask, other_gradients[name]) for name, mask in drawn.items())
    assert any((mask.sum(dim=1) != 3).any() for mask in drawn.values())


def test_a_resumed_run_goes_on_with_the_ranks_that_it_drew() -> None:
    config = AdaLoraConfig(
        initial_rank=8, target_rank=3, warmup_steps=0, final_steps=1, allocation="random"
    )
    torch.manual_seed(1)
    layers = make_layers(config, 1)
    begun = RankAllocator(layers, config, 6)
    begun.allocate(5)
    mask = layers["0.attn.qkv"].mask.clone()
    resumed = RankAllocator(layers, config, 6)  # another place of the generator
    resumed.load_state_dict(begun.state_dict())
    layers["0.attn.qkv"].frozen_mask = False
    resumed.allocate(5)
    assert torch.equal(layers["0.attn.qkv"].mask, mask)


@settings(max_examples=60, deadline=None)
@given(schedules(), st.integers(1, 3), st.sampled_from(["smooth", "coarse", "zero"]))
def test_the_ranks_add_up_to_the_budget_at_every_step(
    schedule: tuple[AdaLoraConfig, int], blocks: int, kind: str
) -> None:
    config, total_steps = schedule
    layers = make_layers(config, blocks)
    allocator = RankAllocator(layers, config, total_steps)
    slices = blocks * len(config.targets)
    in_force = slices * config.initial_rank
    for step in range(total_steps):
        give_gradients(layers, kind, step)
        allocator.observe_gradients()
        if allocator.is_due(step):
            before, in_force = in_force, allocator.allocate(step)
            assert in_force == allocator.budget(step) <= before
        assert sum(int(layer.mask.sum()) for layer in layers.values()) == in_force
        assert sum(sum(r.values()) for r in allocator.ranks().values()) == in_force
        if step < config.warmup_steps:
            assert in_force == slices * config.initial_rank
        settled = step >= total_steps - config.final_steps
        assert settled == all(layer.frozen_mask for layer in layers.values())
    assert in_force == slices * config.target_rank


@given(schedules(), st.integers(0, 12))
def test_schedules_that_leave_no_step_are_refused(
    schedule: tuple[AdaLoraConfig, int], missing: int
) -> None:
    config, _ = schedule
    kept_back = config.warmup_steps + config.final_steps
    steps = kept_back - missing
    if steps < 1:
        return
    tables = {"warmup_steps": config.warmup_steps, "final_steps": config.final_steps}
    with pytest.raises(ConfigError, match=f"= {kept_back} leave none of the {steps} steps"):
        parse_config({"stage": "stage1", "steps": steps, "adalora": tables})
    parse_config({"stage": "stage1", "steps": kept_back + 1, "adalora": tables})
    # Without a budget the same steps are fine.
    lora = {"stage": "stage1", "steps": steps, "adalora": tables, "adaptation": {"method": "lora"}}
    assert parse_config(lora).steps == steps


def test_an_impossible_schedule_is_refused_before_any_file_is_opened(
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = str(CONFIGS / "miniature_stage1.toml")
    assert main(["stage1", "--config", config, "--base", "absent", "--run", "absent",
                 "--set", "steps=6", "--set", "data.root=absent"]) == 2  # fmt: skip
    error = capsys.readouterr().err
    assert "warmup_steps 2 + final_steps 4 = 6 leave none of the 6 steps" in error
