from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from littlecascade.training.config import RunConfig
from littlecascade.training.optim.optimizer import PhaseOptimizer
from littlecascade.training.optim.rounding import round_stochastically

FORMATS = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
VALUES = [1.0, -1.0, 1 / 3, -math.pi, 1.0039, 0.0, 6.1e-5, 6.0e-5, -3.3e-6, 1e-7, 2.5e-8, 60000.0, 1234.567]


def neighbours(value: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The numbers of a format just below and above a value, by torch's own nextafter."""
    near = value.to(dtype)
    other = torch.nextafter(near, torch.full_like(near, math.copysign(math.inf, float(value - near.float()))))
    low, high = sorted((near.float(), other.float()), key=float)
    return (near.float(), near.float()) if near.float() == value else (low, high)


@FORMATS
@pytest.mark.parametrize("value", VALUES)
def test_each_value_becomes_a_neighbour_and_their_mean_is_the_value(value: float, dtype: torch.dtype) -> None:
    count = 1 << 16
    exact = torch.tensor(value)
    low, high = neighbours(exact, dtype)
    rounded = round_stochastically(exact.expand(count), dtype, seed=3).float()
    assert set(rounded.unique().tolist()) <= {float(low), float(high)}
    share = float((exact - low) / (high - low)) if high > low else 0.0
    error = math.sqrt(share * (1 - share) / count)
    assert float((rounded == high).float().mean()) == pytest.approx(share if high > low else 1.0, abs=5 * error + 2e-5)


@FORMATS
def test_what_the_format_holds_stays(dtype: torch.dtype) -> None:
    bits = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).short()
    numbers = bits.view(dtype).float()
    normal = numbers[
        numbers.isfinite() & ((numbers == 0) | (numbers.abs() > 2e-36))
    ]  # bfloat16's smaller ones aren't told apart
    assert torch.equal(round_stochastically(normal, dtype, seed=0).float(), normal)


def test_beyond_the_largest_number_is_the_largest() -> None:
    assert round_stochastically(torch.tensor([65519.0, -1e9]), torch.float16, seed=0).tolist() == [65504, -65504]


def test_neighbouring_values_are_rounded_independently_and_seeds_differ() -> None:
    values = torch.full((1 << 18,), 1 + 2**-8)  # halfway; of more values than are worked on at once
    up = round_stochastically(values, torch.bfloat16, seed=1).float() > 1.004
    for shift in (1, 2, 3, 4, 1 << 16):
        assert float((up[shift:] == up[:-shift]).float().mean()) == pytest.approx(0.5, abs=0.005)
    assert torch.equal(up, round_stochastically(values, torch.bfloat16, seed=1).float() > 1.004)
    other = round_stochastically(values, torch.bfloat16, seed=2).float() > 1.004
    assert float((up == other).float().mean()) == pytest.approx(0.5, abs=0.005)


@FORMATS
def test_weights_without_masters_learn_from_updates_below_their_spacing(dtype: torch.dtype) -> None:
    """100 steps of a hundredth of bfloat16's spacing each: the weights' mean goes as far as it would with masters."""
    module = nn.Linear(64, 64, bias=False).to(dtype)
    module.weight.data.fill_(1.0)
    values = {"experiment_id": "x", "lr": 4e-5, "batch_size": 1, "updates": 9, "webdataset_path": "none"}
    config = RunConfig(**values, master_weights="none", weight_decay=0.0)
    optimizer = PhaseOptimizer({"weight": module.weight}, config)
    for step in range(100):
        optimizer.begin(step, 1.0)
        module.weight.grad = torch.ones_like(module.weight)
        optimizer.step()
    assert float(module.weight.detach().float().mean()) == pytest.approx(1 - 100 * 4e-5, abs=3e-4)
    assert len(module.weight.unique()) > 1
    assert optimizer.weights["weight"].stored().dtype == dtype
