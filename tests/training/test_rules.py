"""Each rule against another implementation of it, step by step."""

from __future__ import annotations

import copy
import sys
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.optimization import Adafactor as TransformersAdafactor

from littlecascade.errors import InputError
from littlecascade.training.config import RunConfig
from littlecascade.training.optim import rounding
from littlecascade.training.optim.eight_bit import BLOCK, AdamW8bit, levels, quantise, restore
from littlecascade.training.optim.optimizer import PhaseOptimizer, choose_rule
from littlecascade.training.optim.rules import Adafactor, AdamW

STEPS = 6
KINDS = pytest.mark.parametrize("signed", [True, False])


def config(**values: Any) -> RunConfig:
    base = {"experiment_id": "x", "lr": 0.1, "batch_size": 4, "updates": 100, "webdataset_path": "none"}
    return RunConfig(**(base | values))


def gradients(*shape: int, seed: int = 0) -> list[Tensor]:
    """Of very different sizes from row to row and from step to step."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.logspace(-3, 1, shape[0]).view(-1, *[1] * (len(shape) - 1))
    return [torch.randn(shape, generator=generator) * rows * (step + 1) for step in range(STEPS)]


@pytest.mark.parametrize("shape", [(6, 9), (9,), (1,), (1, 1, 1, 7), (5, 4, 3, 3), (5, 1, 3, 3)])
def test_adafactor_is_that_of_transformers(shape: tuple[int, ...]) -> None:
    """Which takes a convolution's weight for many matrices of 3 x 3, so it is given one of a row per channel."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    matrix = weight.flatten(1) if weight.ndim > 1 and min(weight.flatten(1).shape) > 1 else weight.flatten()
    other = nn.Parameter(matrix.clone())
    reference = TransformersAdafactor([other], lr=0.1, scale_parameter=False, relative_step=False, weight_decay=0.3)
    rule = Adafactor()
    state = rule.start(weight)
    for gradient in gradients(*shape):
        rule.update(weight, gradient, state, lr=0.1, decay=0.3)
        other.grad = gradient.reshape(other.shape)
        reference.step()
        torch.testing.assert_close(weight.view_as(other), other.detach(), rtol=1e-5, atol=1e-6)


def test_adafactor_keeps_rows_and_columns() -> None:
    state = Adafactor().start(torch.zeros(1000, 20, 3, 3))
    assert sum(tensor.numel() for tensor in state.values()) == 1 + 1000 + 180


@pytest.mark.parametrize("settings", [{"warmup_updates": 4}, {"warmup_updates": 0}])
def test_prodigy_is_the_package(settings: dict[str, int]) -> None:
    package = pytest.importorskip("prodigyopt")
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    other = copy.deepcopy(module)
    given = config(optimizer="prodigy", lr=1.0, weight_decay=0.5, max_grad_norm=1e9, **settings)
    optimizer = PhaseOptimizer(dict(module.named_parameters()), given)
    groups = [{"params": [other.weight], "weight_decay": 0.5}, {"params": [other.bias], "weight_decay": 0.0}]
    options = {"use_bias_correction": True, "safeguard_warmup": settings["warmup_updates"] > 0}
    reference = package.Prodigy(groups, lr=1.0, betas=(0.9, 0.95), **options)
    start = module.weight.detach().clone()
    for step in range(40):
        optimizer.begin(step, 0.5)
        for group in reference.param_groups:
            group["lr"] = 0.5
        other.zero_grad()
        for network in (module, other):
            network(torch.eye(3)).square().sum().backward()
        optimizer.step()
        reference.step()
    assert torch.equal(module.weight, other.weight)
    assert torch.equal(module.bias, other.bias)
    assert (module.weight - start).abs().max() > 1e-4  # 40 steps at the first learning rate, 1e-6, are 2e-5


def test_prodigy_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prodigyopt", None)
    with pytest.raises(InputError, match=r"prodigyopt, which is not installed: pip install 'littlecascade\[prodigy\]'"):
        PhaseOptimizer(dict(nn.Linear(1, 1).named_parameters()), config(optimizer="prodigy"))


@KINDS
def test_levels_by_hand(signed: bool) -> None:
    known = levels(signed=signed).tolist()
    assert len(set(known)) == 256
    assert known == sorted(known)
    for decade in range(7):
        count = 2 ** (6 - decade) * (1 if signed else 2)
        inside = [level for level in known if 0.1 ** (decade + 1) < level < 0.1**decade and level > 0]
        steps = [0.1**decade * (0.1 + 0.9 * (number + 0.5) / count) for number in range(count)]
        assert inside == pytest.approx(steps, rel=1e-5)
    if signed:
        assert [level for level in known if level < 0] == [-level for level in known[:127:-1] if level < 1]


@KINDS
@pytest.mark.parametrize("count", [1, BLOCK, 40 * BLOCK + 17, rounding.AT_ONCE + BLOCK])
def test_codes_are_of_the_nearest_levels(signed: bool, count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    values = torch.randn(count, generator=generator) * 10 ** (-8 * torch.rand(count, generator=generator))
    values = values if signed else values.abs()
    codes, scales = quantise(values, signed=signed)
    assert (codes.dtype, codes.shape, len(scales)) == (torch.uint8, (count,), -(-count // BLOCK))
    known = levels(signed=signed).double()
    for block, own, scale in zip(values.split(BLOCK), codes.split(BLOCK), scales, strict=True):
        assert scale == block.abs().max()
        distances = (block.double()[:, None] - known * float(scale)).abs()
        distances = distances if signed else distances[:, 1:]  # nothing becomes zero
        chosen = (block.double() - known[own.long()] * float(scale)).abs()
        assert ((chosen - distances.amin(1)) <= 1e-6 * block.abs()).all()
    torch.testing.assert_close(
        restore(codes, scales, signed=signed),
        levels(signed=signed)[codes.long()] * scales.repeat_interleave(BLOCK)[:count],
    )


def test_zeros_stay_zeros() -> None:
    codes, scales = quantise(torch.zeros(300), signed=True)
    assert (restore(codes, scales, signed=True) == 0).all()


class ReferenceAdam:
    """AdamW by its paper's formulas in float64, between 8-bit moments that it finds by search."""

    def __init__(self, weight: NDArray[np.float64]) -> None:
        self.weight, self.step = weight, 0
        self.moments = [np.zeros_like(weight), np.zeros_like(weight)]

    def update(self, gradient: NDArray[np.float64], lr: float, decay: float) -> None:
        self.step += 1
        first = 0.9 * self.moments[0] + 0.1 * gradient
        second = 0.95 * self.moments[1] + 0.05 * gradient**2
        self.weight *= 1 - lr * decay
        unbiased = first / (1 - 0.9**self.step), second / (1 - 0.95**self.step)
        self.weight -= lr * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
        self.moments = [self.rounded(first, signed=True), self.rounded(second, signed=False)]

    def rounded(self, values: NDArray[np.float64], *, signed: bool) -> NDArray[np.float64]:
        known = levels(signed=signed).double().numpy()[0 if signed else 1 :]
        blocks = values.reshape(-1, BLOCK)
        scales = np.abs(blocks).max(1, keepdims=True)
        nearest = np.abs(blocks[..., None] / scales[..., None] - known).argmin(-1)
        return (known[nearest] * scales).reshape(values.shape)


def test_adamw8bit_is_adamw_between_rounded_moments() -> None:
    weight = torch.randn(24, 256, generator=torch.Generator().manual_seed(1))
    reference, rule = ReferenceAdam(weight.double().numpy().copy()), AdamW8bit((0.9, 0.95))
    state = rule.start(weight)
    for gradient in gradients(24, 256):
        rule.update(weight, gradient, state, lr=0.01, decay=0.3)
        reference.update(gradient.double().numpy(), lr=0.01, decay=0.3)
        far = np.abs(weight.double().numpy() - reference.weight) > 1e-5
        assert far.mean() < 1e-3  # a value halfway between two levels may go either way
    assert sum(tensor.numel() * tensor.itemsize for tensor in state.values()) < 2.1 * weight.numel()


def test_adamw8bit_stays_near_adamw() -> None:
    exact = torch.zeros(64, 256)
    rough, rules = exact.clone(), (AdamW((0.9, 0.95)), AdamW8bit((0.9, 0.95)))
    states = [rule.start(exact) for rule in rules]
    for seed in range(5):
        for gradient in gradients(64, 256, seed=seed):
            for rule, weight, state in zip(rules, (exact, rough), states, strict=True):
                rule.update(weight, gradient + 0.3, state, lr=0.01, decay=0.0)
    assert float((rough - exact).norm() / exact.norm()) < 0.02


def test_small_weights_keep_moments_of_32_bits() -> None:
    chosen = [choose_rule("w", torch.zeros(shape), config(optimizer="adamw8bit")) for shape in ((64, 64), (63, 65))]
    assert [type(rule) for rule in chosen] == [AdamW8bit, AdamW]
