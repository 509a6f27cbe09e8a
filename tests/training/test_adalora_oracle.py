"""AdaLoRA's importance, masks, schedule and penalty beside those of ``peft``.

Where ours differ from peft's on purpose, the test that shows it says why.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig as PeftConfig
from peft import get_peft_model
from torch import Tensor, nn

from training.adapters.adalora import AdaLoraLinear, mean_penalty
from training.adapters.adapted_linear import LAYER_SLICES
from training.adapters.config import AdaLoraConfig
from training.adapters.rank_allocator import RankAllocator

TOTAL_STEPS = 60
SHAPES = {"attn.qkv": (48, 16), "attn.proj": (16, 16), "mlp.lin1": (64, 16), "mlp.lin2": (16, 64)}
PARTS = {"P": "lora_B", "singular": "lora_E", "Q": "lora_A"}

Slices = Mapping[tuple[str, int], Tensor]
"""A tensor per slice, by layer and place in the layer."""


def make_config(**changes: Any) -> AdaLoraConfig:
    values: dict[str, Any] = {
        "initial_rank": 6, "target_rank": 2, "warmup_steps": 5, "final_steps": 10,
        "interval_steps": 1, "targets": ("q", "k", "v", "proj", "lin1", "lin2"),
    }  # fmt: skip
    return AdaLoraConfig(**{**values, **changes})


class Pair:
    """The same adapters twice: ours, and peft's with a linear layer per slice."""

    def __init__(self, config: AdaLoraConfig, blocks: int = 2) -> None:
        torch.manual_seed(0)
        self.ours: dict[str, AdaLoraLinear] = {}
        plain: dict[str, nn.Linear] = {}
        for block in range(blocks):
            for path, slices in LAYER_SLICES.items():
                outputs, inputs = SHAPES[path]
                name = f"{block}_{path.replace('.', '_')}"
                self.ours[name] = AdaLoraLinear(nn.Linear(inputs, outputs), config, slices)
                for place in range(len(slices)):
                    plain[f"{name}_{place}"] = nn.Linear(inputs, outputs // len(slices))
        self.allocator = RankAllocator(self.ours, config, TOTAL_STEPS)
        settings = PeftConfig(
            init_r=config.initial_rank, target_r=config.target_rank, tinit=config.warmup_steps,
            tfinal=config.final_steps, deltaT=config.interval_steps, total_step=TOTAL_STEPS,
            beta1=config.sensitivity_decay, beta2=config.uncertainty_decay,
            target_modules=list(plain),
        )  # fmt: skip
        self.peft = get_peft_model(nn.ModuleDict(plain), settings)
        self.oracle: Any = self.peft.base_model.rankallocator

    def peft_parameters(self, part: str) -> dict[tuple[str, int], nn.Parameter]:
        named = dict(self.peft.named_parameters())
        return {
            (name, place): named[f"base_model.model.{name}_{place}.{PARTS[part]}.default"]
            for name, layer in self.ours.items()
            for place in range(len(layer.slices))
        }

    def draw(self, seed: int, gradient_size: float = 1.0) -> None:
        """Give both sides the same random parameters and gradients."""
        generator = torch.Generator().manual_seed(seed)
        for part in PARTS:
            theirs = self.peft_parameters(part)
            for name, layer in self.ours.items():
                mine = getattr(layer, part)
                mine.data = torch.randn(mine.shape, generator=generator)
                mine.grad = torch.randn(mine.shape, generator=generator) * gradient_size
                for place in range(len(layer.slices)):
                    parameter = theirs[name, place]
                    parameter.data = mine.data[place].reshape(parameter.shape).clone()
                    parameter.grad = mine.grad[place].reshape(parameter.shape).clone()

    def observe(self) -> None:
        self.allocator.observe_gradients()
        self.oracle.update_ipt(self.peft)

    def peft_importance(self) -> dict[tuple[str, int], Tensor]:
        """What ``mask_to_budget`` ranks, from peft's own parts."""
        scores: dict[tuple[str, int], Tensor] = {}
        for name, layer in self.ours.items():
            for place in range(len(layer.slices)):
                stem = f"base_model.model.{name}_{place}."
                of = {p: self.oracle._element_score(f"{stem}{p}.default") for p in PARTS.values()}
                vectors = torch.stack([of["lora_A"].mean(dim=1), of["lora_B"].mean(dim=0)], dim=1)
                scores[name, place] = self.oracle._combine_ipt(of["lora_E"], vectors)
        return scores

    def peft_masks(self, budget: int) -> dict[tuple[str, int], Tensor]:
        pattern = self.oracle.mask_to_budget(self.peft, budget)
        return {
            (name, place): torch.tensor(pattern[f"base_model.model.{name}_{place}.lora_E.default"])
            for name, layer in self.ours.items()
            for place in range(len(layer.slices))
        }

    def masks(self) -> dict[tuple[str, int], Tensor]:
        return {
            (name, place): layer.mask[place].bool()
            for name, layer in self.ours.items()
            for place in range(len(layer.slices))
        }


def assert_same(ours: Slices, theirs: Slices) -> None:
    assert ours.keys() == theirs.keys()
    for key, mine in ours.items():
        assert torch.equal(mine, theirs[key]), key


@pytest.mark.parametrize("seed", range(3))
def test_same_gradients_in_same_importance_and_same_masks_out(seed: int) -> None:
    """Over all steps in which peft cuts, from warm-up to the final phase."""
    config = make_config()
    pair = Pair(config)
    cut_steps = 0
    for step in range(TOTAL_STEPS - config.final_steps):
        pair.draw(1000 * seed + step, gradient_size=10.0 ** (step % 3 - 1))
        pair.observe()
        wanted = pair.peft_importance()
        for name, layer in pair.ours.items():
            mine = pair.allocator.importance(name)
            for place in range(len(layer.slices)):
                torch.testing.assert_close(mine[place], wanted[name, place], rtol=1e-5, atol=0)
        budget = pair.allocator.allocate(step)
        if budget < pair.allocator.initial_budget:
            cut_steps += 1
            assert_same(pair.masks(), pair.peft_masks(budget))
    assert cut_steps > 40


@pytest.mark.parametrize(("interval", "warmup", "final"), [(1, 5, 10), (7, 0, 1), (10, 20, 30)])
def test_the_schedule_is_pefts_but_for_rounding(interval: int, warmup: int, final: int) -> None:
    """The same cubic fall; peft rounds down, we round to the nearest."""
    config = make_config(interval_steps=interval, warmup_steps=warmup, final_steps=final)
    pair = Pair(config)
    for step in range(TOTAL_STEPS):
        theirs, _ = pair.oracle.budget_schedule(step)
        assert 0 <= pair.allocator.budget(step) - theirs <= 1
    assert pair.oracle.init_bgt == pair.allocator.initial_budget
    assert pair.oracle.target_bgt == pair.allocator.target_budget


def test_ties_cost_peft_rank_and_us_none() -> None:
    """Peft cuts everything at or below a threshold, so tied triplets fall together.

    Ours break ties by order: the budget is met, and what peft keeps we keep.
    """
    pair = Pair(make_config(initial_rank=4), blocks=1)
    pair.draw(0)
    for part in PARTS:  # every triplet of a layer is like the first one
        theirs = pair.peft_parameters(part)
        for name, layer in pair.ours.items():
            mine = getattr(layer, part)
            for tensor in (mine.data, mine.grad):
                first = tensor[:, :, :1] if part == "P" else tensor[:, :1]
                tensor.copy_(first.clone().expand_as(tensor))
            for place in range(len(layer.slices)):
                shape = theirs[name, place].shape
                theirs[name, place].data = mine.data[place].reshape(shape).clone()
                theirs[name, place].grad = mine.grad[place].reshape(shape).clone()
    pair.observe()
    for layer in pair.ours.values():
        layer.mask.fill_(1.0)
    budget = 14  # of 24: cuts into a group of four
    pair.allocator.budget = lambda step: budget  # type: ignore[method-assign]
    assert pair.allocator.allocate(0) == budget
    theirs_kept = pair.peft_masks(budget)
    assert sum(int(mask.sum()) for mask in theirs_kept.values()) == 12
    for key, mask in pair.masks().items():
        assert torch.all(mask | ~theirs_kept[key]), key


def test_zero_importance_at_the_first_steps_cuts_all_in_peft_and_the_budget_in_ours() -> None:
    """Lambda starts at 0, so gradients of P and Q are 0; peft's threshold is then 0 as well."""
    config = make_config(warmup_steps=0)
    pair = Pair(config)
    pair.draw(0, gradient_size=0.0)
    pair.observe()
    budget = pair.allocator.allocate(3)
    assert pair.allocator.target_budget < budget < pair.allocator.initial_budget
    assert sum(int(mask.sum()) for mask in pair.masks().values()) == budget
    assert not any(mask.any() for mask in pair.peft_masks(budget).values())


def test_target_equal_to_initial_crashes_peft_and_not_us() -> None:
    """Peft asks for the 0th smallest score."""
    pair = Pair(make_config(initial_rank=3, target_rank=3))
    pair.draw(0)
    pair.observe()
    assert pair.allocator.allocate(30) == pair.allocator.initial_budget
    with pytest.raises(RuntimeError, match="selected number k out of range"):
        pair.peft_masks(pair.allocator.initial_budget)


def test_our_penalty_is_the_square_that_the_paper_writes() -> None:
    """Equation 4 adds squared Frobenius norms; peft adds the norms themselves.

    The square's gradient fades as P'P nears the identity. The norm's keeps length 1 however
    small the deviation, so that it never stops pushing.
    """
    pair = Pair(make_config())
    pair.draw(0)
    for name, layer in pair.ours.items():
        squares = torch.zeros(())
        for place in range(len(layer.slices)):
            b = pair.peft_parameters("P")[name, place]
            a = pair.peft_parameters("Q")[name, place]
            for product in (b.T @ b, a @ a.T):  # as in AdaLoraModel.forward
                norm = torch.norm(product - torch.eye(len(product)), p="fro")
                squares = squares + norm**2
        torch.testing.assert_close(mean_penalty([layer]), squares)


def test_the_adapted_weight_is_pefts_up_to_the_scale() -> None:
    """Peft divides alpha by the initial rank, we by the target rank that remains."""
    config = make_config(alpha=8.0)
    pair = Pair(config)
    pair.draw(0)
    for name, layer in pair.ours.items():
        layer.frozen_mask = True
        parts = layer.products()
        for place in range(len(layer.slices)):
            b = pair.peft_parameters("P")[name, place]
            e = pair.peft_parameters("singular")[name, place]
            a = pair.peft_parameters("Q")[name, place]
            wanted = b @ (a * e) * (8.0 / 2)
            torch.testing.assert_close(parts[place], wanted)


class Learner:
    """Four small layers that learn matrices of rank 4, 2, 1 and 0, by ours and by peft at once."""

    steps, first_cut = 200, 20

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.config = AdaLoraConfig(
            initial_rank=6, target_rank=2, alpha=2.0, warmup_steps=self.first_cut,
            final_steps=80, interval_steps=5, targets=("proj",), initialization="normal",
            penalty="norm", orthogonality=0.1,
        )  # fmt: skip
        plain = {f"layer{i}": nn.Linear(16, 16, bias=False) for i in range(4)}
        self.wanted = [
            one.weight.detach() + (torch.randn(16, rank) @ torch.randn(rank, 16)) / 4
            for one, rank in zip(plain.values(), (4, 2, 1, 0), strict=True)
        ]
        self.ours = {
            name: AdaLoraLinear(copy.deepcopy(one), self.config, ("proj",))
            for name, one in plain.items()
        }
        self.allocator = RankAllocator(self.ours, self.config, self.steps)
        settings = PeftConfig(
            init_r=6, target_r=2, lora_alpha=6, tinit=self.first_cut, tfinal=80, deltaT=5,
            total_step=self.steps, target_modules=list(plain), orth_reg_weight=0.1,
        )  # fmt: skip
        self.peft: Any = get_peft_model(nn.ModuleDict(plain), settings)
        peft: Any = self.peft
        self.theirs: list[Any] = [peft.base_model.model[name] for name in self.ours]
        with torch.no_grad():
            for mine, other in zip(self.ours.values(), self.theirs, strict=True):
                mine.P.copy_(other.lora_B["default"][None])
                mine.Q.copy_(other.lora_A["default"][None])
        own = [p for layer in self.ours.values() for p in layer.factors()]
        peft_own = [p for p in self.peft.parameters() if p.requires_grad]
        self.optimizers = [torch.optim.AdamW(p, 1e-2, weight_decay=0) for p in (own, peft_own)]

    def errors(self, step: int) -> tuple[Tensor, Tensor]:
        """Mean squared error of ours and of peft on the batch of a step."""
        values = torch.randn(32, 16, generator=torch.Generator().manual_seed(step))
        return tuple(  # type: ignore[return-value]
            torch.stack(
                [
                    (layer(values) - values @ w.T).square().mean()
                    for layer, w in zip(layers, self.wanted, strict=True)
                ]
            ).mean()
            for layers in (list(self.ours.values()), self.theirs)
        )

    def penalties(self) -> tuple[Tensor, Tensor]:
        terms = []
        for other in self.theirs:
            a, b = other.lora_A["default"], other.lora_B["default"]
            for product in (a @ a.T, b.T @ b):  # as in AdaLoraModel.forward
                terms.append(torch.norm(product - torch.eye(len(product)), p="fro"))
        mine = mean_penalty(self.ours.values(), self.config.penalty)
        return mine, torch.stack(terms).mean()

    def step(self, step: int) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        pairs = zip(self.errors(step), self.penalties(), strict=True)
        for loss in [error + 0.1 * penalty for error, penalty in pairs]:
            loss.backward()
        self.allocator.observe_gradients()
        for optimizer in self.optimizers:
            optimizer.step()
        if self.allocator.is_due(step):
            self.allocator.allocate(step)
        self.peft.base_model.update_and_allocate(step)


@pytest.mark.parametrize("seed", range(3))
def test_a_whole_training_is_pefts_until_the_first_cut_and_ends_beside_it(seed: int) -> None:
    """The same start, loss, penalty and optimizer; then ranks move, and ours may come back."""
    learner = Learner(seed)
    start = learner.errors(10**6)[0].item()
    for step in range(learner.first_cut):
        learner.step(step)
    for mine, other in zip(learner.ours.values(), learner.theirs, strict=True):
        torch.testing.assert_close(mine.P[0], other.lora_B["default"], rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(mine.Q[0], other.lora_A["default"], rtol=1e-3, atol=1e-5)
        own = mine.singular[0, :, None]
        torch.testing.assert_close(own, other.lora_E["default"], rtol=1e-3, atol=1e-5)
    for step in range(learner.first_cut, learner.steps):
        learner.step(step)
    with torch.no_grad():
        ours, theirs = (float(error) for error in learner.errors(10**6))
    assert ours < 0.3 * start
    assert ours < 1.25 * theirs
    kept = [int(layer.mask.sum()) for layer in learner.ours.values()]
    assert sum(kept) == learner.allocator.target_budget == 8
    assert kept[3] == min(kept)
