"""AdaLoRA against the formulas of its paper, in float64."""

import numpy as np
import pytest
import torch
from torch import nn

from training.adapters.adalora import NORMAL_SD, AdaLoraLinear, mean_penalty
from training.adapters.config import AdaLoraConfig, PenaltyKind
from training.adapters.rank_allocator import RankAllocator
from training.errors import ConfigError

CONFIG = AdaLoraConfig(
    initial_rank=6, target_rank=2, alpha=4.0, warmup_steps=3, final_steps=5, interval_steps=1
)


def make_layers(count: int = 3, config: AdaLoraConfig = CONFIG) -> dict[str, AdaLoraLinear]:
    torch.manual_seed(0)
    return {f"block{i}": AdaLoraLinear(nn.Linear(16, 48), config) for i in range(count)}


def train_step(layers: dict[str, AdaLoraLinear], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(10, 16, generator=generator)
    for layer in layers.values():
        layer.zero_grad()
        target = torch.randn(10, 48, generator=generator)
        ((layer(values) - target) ** 2).mean().backward()


def test_a_small_start_is_drawn_towards_orthogonal_factors_and_one_at_its_goal_stays() -> None:
    """The norm's gradient has one length wherever it is, and none at the goal itself."""
    torch.manual_seed(0)
    config = AdaLoraConfig(initial_rank=4, target_rank=2, initialization="normal", penalty="norm")
    small = AdaLoraLinear(nn.Linear(32, 96), config)
    assert float(small.P.detach().std()) == pytest.approx(NORMAL_SD, rel=0.15)
    assert bool((small.singular == 0).all())
    (gradient,) = torch.autograd.grad(mean_penalty([small], "norm"), small.P)
    assert bool(((gradient * small.P).sum(dim=(1, 2)) < 0).all())  # it grows
    exact = AdaLoraLinear(nn.Linear(32, 96), config)
    with torch.no_grad():
        exact.P.copy_(torch.eye(32)[:, :4])
        exact.Q.copy_(torch.eye(32)[:4])
    gradients = torch.autograd.grad(mean_penalty([exact], "norm"), [exact.P, exact.Q])
    assert all(bool((one == 0).all()) for one in gradients)


def test_a_fresh_adapter_changes_nothing_and_costs_no_penalty() -> None:
    layer = nn.Linear(16, 48)
    values = torch.randn(4, 16)
    wanted = layer(values)
    adapter = AdaLoraLinear(layer, CONFIG)
    torch.testing.assert_close(adapter(values), wanted)
    assert mean_penalty([adapter]).item() < 1e-8
    assert not adapter.base.weight.requires_grad


def test_the_folded_weight_is_the_formula() -> None:
    adapter = make_layers(1)["block0"]
    with torch.no_grad():
        adapter.singular.normal_()
        adapter.mask[1, 2:] = 0
    delta = adapter.folded_weight().detach().double() - adapter.base.weight.double()
    for index in range(3):
        p, q = adapter.P[index].double(), adapter.Q[index].double()
        kept = (adapter.singular * adapter.mask)[index].double()
        wanted = p @ torch.diag(kept) @ q * (4.0 / 2)
        torch.testing.assert_close(
            delta[16 * index : 16 * (index + 1)], wanted.detach(), rtol=1e-5, atol=1e-6
        )


def test_a_cut_triplet_gives_nothing_but_can_come_back_until_the_masks_freeze() -> None:
    adapter = make_layers(1)["block0"]
    with torch.no_grad():
        adapter.singular.fill_(1.0)
        adapter.mask[0, 0] = 0
    train_step({"block0": adapter}, 1)
    assert adapter.singular.grad is not None and adapter.singular.grad[0, 0] != 0
    adapter.frozen_mask = True
    train_step({"block0": adapter}, 1)
    assert adapter.singular.grad[0, 0] == 0


def test_importance_is_smoothed_sensitivity_times_uncertainty() -> None:
    layers = make_layers(2)
    with torch.no_grad():
        for layer in layers.values():
            layer.singular.normal_()
    allocator = RankAllocator(layers, CONFIG, 40)
    smooth: dict[str, np.ndarray] = {}
    uncertain: dict[str, np.ndarray] = {}
    for step in range(4):
        train_step(layers, step)
        allocator.observe_gradients()
        for part in ("P", "singular", "Q"):
            parameter = getattr(layers["block1"], part)
            now = np.abs((parameter * parameter.grad).detach().double().numpy())
            smooth[part] = 0.85 * smooth.get(part, np.zeros_like(now)) + 0.15 * now
            gap = np.abs(now - smooth[part])
            uncertain[part] = 0.85 * uncertain.get(part, np.zeros_like(now)) + 0.15 * gap
    product = {part: smooth[part] * uncertain[part] for part in smooth}
    wanted = product["singular"] + product["P"].mean(axis=1) + product["Q"].mean(axis=2)
    got = allocator.importance("block1").double().numpy()
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-12)


def test_the_budget_falls_by_a_cube_and_is_met_at_every_step() -> None:
    layers = make_layers(3)
    allocator = RankAllocator(layers, CONFIG, 30)
    budgets = []
    for step in range(30):
        train_step(layers, step)
        allocator.observe_gradients()
        kept = allocator.allocate(step)
        assert kept == allocator.budget(step) == sum(int(a.mask.sum()) for a in layers.values())
        assert sum(sum(ranks.values()) for ranks in allocator.ranks().values()) == kept
        budgets.append(kept)
    assert budgets[:4] == [54] * 4  # 3 layers x 3 slices x rank 6
    assert budgets[-5:] == [18] * 5
    assert budgets == sorted(budgets, reverse=True)
    share = (14 - 3) / (30 - 3 - 5)
    assert budgets[14] == 18 + round(36 * (1 - share) ** 3)
    assert all(layer.frozen_mask for layer in layers.values())


def test_triplets_are_chosen_at_intervals_and_when_the_final_phase_begins() -> None:
    config = AdaLoraConfig(
        initial_rank=4, target_rank=2, warmup_steps=3, final_steps=5, interval_steps=10
    )
    allocator = RankAllocator(make_layers(1, config), config, 30)
    assert [step for step in range(30) if allocator.is_due(step)] == [3, 13, 23, 25]


def test_rank_goes_where_gradients_are() -> None:
    """A budget over the whole model, not the same cut in every layer."""
    layers = make_layers(2)
    allocator = RankAllocator(layers, CONFIG, 30)
    generator = torch.Generator().manual_seed(1)
    for step in range(30):
        for name, layer in layers.items():
            for parameter in (layer.P, layer.singular, layer.Q):
                size = 1.0 if name == "block0" else 1e-3
                parameter.grad = torch.randn(parameter.shape, generator=generator) * size
            with torch.no_grad():
                layer.singular.fill_(0.5)
        allocator.observe_gradients()
        allocator.allocate(step)
    totals = {name: sum(ranks.values()) for name, ranks in allocator.ranks().items()}
    assert totals == {"block0": 12, "block1": 0}


def test_without_gradients_ties_are_broken_by_order_and_the_budget_holds() -> None:
    layers = make_layers(2)
    allocator = RankAllocator(layers, CONFIG, 30)
    assert allocator.allocate(29) == 12
    assert int(layers["block0"].mask.sum()) == 12


def test_target_equal_to_initial_never_cuts() -> None:
    """Peft's allocator crashed here (#2337)."""
    config = AdaLoraConfig(initial_rank=4, target_rank=4, warmup_steps=0, final_steps=1)
    layers = make_layers(2, config)
    allocator = RankAllocator(layers, config, 10)
    assert [allocator.allocate(step) for step in range(10)] == [24] * 10


def test_impossible_schedules_are_refused_with_the_arithmetic() -> None:
    with pytest.raises(ConfigError, match=r"3 \+ final_steps 5 = 8 leave none of the 8"):
        RankAllocator(make_layers(), CONFIG, 8)
    with pytest.raises(ConfigError, match="target_rank 9"):
        AdaLoraConfig(initial_rank=8, target_rank=9)


def test_a_rank_beyond_the_width_is_refused() -> None:
    config = AdaLoraConfig(initial_rank=17, target_rank=2)
    with pytest.raises(ConfigError, match="17 exceeds"):
        AdaLoraLinear(nn.Linear(16, 48), config)


def test_statistics_survive_a_checkpoint() -> None:
    layers = make_layers(2)
    allocator = RankAllocator(layers, CONFIG, 30)
    train_step(layers, 0)
    allocator.observe_gradients()
    state = {name: tensor.clone() for name, tensor in allocator.state_dict().items()}
    fresh = RankAllocator(layers, CONFIG, 30)
    fresh.load_state_dict(state)
    torch.testing.assert_close(fresh.importance("block0"), allocator.importance("block0"))


@pytest.mark.parametrize("kind", ["squared", "norm"])
def test_the_penalty_of_all_layers_at_once_is_the_mean_of_each(kind: PenaltyKind) -> None:
    torch.manual_seed(0)
    config = AdaLoraConfig(initial_rank=3, target_rank=2, targets=("q", "v", "lin1"))
    layers = [
        AdaLoraLinear(nn.Linear(8, 24), config),
        AdaLoraLinear(nn.Linear(8, 24), config),
        AdaLoraLinear(nn.Linear(8, 32), config, ("lin1",)),
    ]
    for layer in layers:
        for factor in layer.factors():
            factor.data.normal_()
    distances = [
        torch.norm(product - torch.eye(3)) ** (2 if kind == "squared" else 1)
        for layer in layers
        for p, q in zip(layer.P, layer.Q, strict=True)
        for product in (p.T @ p, q @ q.T)
    ]
    wanted = (
        torch.stack(distances).sum() / 3 if kind == "squared" else torch.stack(distances).mean()
    )
    together = mean_penalty(layers, kind)
    torch.testing.assert_close(together, wanted)
    for mine, theirs in zip(
        torch.autograd.grad(together, [layer.Q for layer in layers]),
        torch.autograd.grad(wanted, [layer.Q for layer in layers]),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)
