from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from littlecascade.diffusion.process import EPSILON, TARGETS, X0, V
from littlecascade.diffusion.weighting import P2, WEIGHTS, AdaptiveWeight, MinSNR


@given(st.floats(-9.2, 9.2))
def test_p2_and_min_snr_are_their_formulas(logsnr: float):
    level, snr = torch.tensor([logsnr], dtype=torch.float64), math.exp(logsnr)
    assert P2()(level).item() == pytest.approx(1 / (1 + snr))
    assert P2(k=2, gamma=0.5)(level).item() == pytest.approx(1 / math.sqrt(2 + snr))
    assert MinSNR(EPSILON)(level).item() == pytest.approx(min(snr, 5) / snr)
    assert MinSNR(V)(level).item() == pytest.approx(min(snr, 5) / (snr + 1))
    assert MinSNR(X0, limit=3)(level).item() == pytest.approx(min(snr, 3))


def small() -> AdaptiveWeight:
    """Edges at -1, 0 and 1, so four buckets: (-inf, -1], (-1, 0], (0, 1], (1, inf)."""
    return AdaptiveWeight(buckets=4, low=-1.0, high=1.0, decay=0.9)


def test_adaptive_weight_by_hand():
    weight = small()
    levels = torch.tensor([-5.0, -0.5, 0.5, 5.0])
    assert weight(levels).tolist() == [1, 1, 1, 1]
    weight.update(torch.tensor([0.5]), torch.tensor([3.0]))  # 0.9 * 1 + 0.1 * 3
    assert weight(levels).tolist() == pytest.approx([1, 1, 1 / 1.2, 1])
    weight.update(torch.tensor([0.2, 7.0, 0.9]), torch.tensor([1.0, 0.5, 2.0]))  # 0.9 * 1.2 + 0.1 * 1.5; 0.9 + 0.05
    assert weight(levels).tolist() == pytest.approx([1, 1, 1 / 1.23, 1 / 0.95])


def test_a_loss_that_is_not_finite_teaches_nothing():
    weight = small()
    weight.update(torch.tensor([0.5, 0.6, 5.0]), torch.tensor([math.nan, 2.0, math.inf]))
    assert weight.losses.tolist() == pytest.approx([1, 1, 1.1, 1])


def test_adaptive_weight_as_the_official_one_buckets():
    weight = AdaptiveWeight()
    assert weight.losses.shape == (300,)
    assert weight.edges.shape == (299,)
    assert weight.edges[[0, -1]].tolist() == [-10, 10]
    weight.losses.copy_(torch.arange(300.0) + 1)
    step = 20 / 298
    levels = torch.tensor([-11.0, -10 + 0.5 * step, 0.5 * step, 10 - 0.5 * step, 11.0])
    assert (1 / weight(levels)).tolist() == pytest.approx([1, 2, 151, 299, 300])


def test_the_weight_is_bounded():
    weight = small()
    weight.losses.copy_(torch.tensor([0.0, 1e-9, 1e9, 1.0]))
    assert weight(torch.tensor([-5.0, -0.5, 0.5])).tolist() == pytest.approx([1e7, 1e7, 1e-7])


@given(st.lists(st.tuples(st.floats(-12, 12), st.floats(0, 100)), min_size=1, max_size=20))
def test_update_is_the_moving_average_of_each_bucket(samples: list[tuple[float, float]]):
    weight = small()
    levels, losses = (torch.tensor(column) for column in zip(*samples, strict=True))
    weight.update(levels, losses)
    for i, (low, high) in enumerate([(-math.inf, -1), (-1, 0), (0, 1), (1, math.inf)]):
        inside = [loss for level, loss in zip(levels.tolist(), losses.tolist(), strict=True) if low < level <= high]
        expected = 0.9 + 0.1 * sum(inside) / len(inside) if inside else 1.0
        assert weight.losses[i].item() == pytest.approx(expected, rel=1e-5)


def test_state_is_tensors_and_comes_back():
    weight = AdaptiveWeight()
    weight.update(torch.tensor([0.3, -4.0]), torch.tensor([0.2, 7.0]))
    again = AdaptiveWeight()
    again.load_state_dict(weight.state_dict())
    levels = torch.linspace(-12, 12, 99)
    assert torch.equal(again(levels), weight(levels))


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_every_weight_is_positive_and_finite_for_every_target(name: str, target):
    levels = torch.linspace(-9.21, 9.21, 50)
    weight = WEIGHTS[name](target)
    weight.update(levels, torch.rand(50, generator=torch.Generator().manual_seed(0)))
    values = weight(levels)
    assert values.shape == levels.shape
    assert values.isfinite().all()
    assert (values > 0).all()
