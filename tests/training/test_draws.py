from __future__ import annotations

import itertools

import pytest
import torch

from littlecascade.training.draws import Draws


def everything(draws: Draws) -> list[torch.Tensor]:
    return [
        draws.normal(2, 3),
        draws.uniform(4),
        torch.tensor(draws.integers(1000)),
        draws.chance(0.5),
        draws.uniform(),
        draws.spread(),
    ]


def test_a_row_depends_on_its_position_alone() -> None:
    together = everything(Draws(5, range(10, 14)))
    alone = [everything(Draws(5, [position])) for position in range(10, 14)]
    for kind, rows in enumerate(together):
        assert torch.equal(rows, torch.cat([single[kind] for single in alone]))


def test_positions_seeds_and_streams_tell_draws_apart() -> None:
    rows = [Draws(seed, [at], stream).normal(3) for seed in range(3) for at in range(3) for stream in range(2)]
    assert all(not torch.equal(one, other) for one, other in itertools.combinations(rows, 2))


def test_distributions() -> None:
    draws = Draws(0, range(4000))
    normal, uniform = draws.normal(4), draws.uniform(4)
    assert normal.mean().abs() < 0.03
    assert (normal.std() - 1).abs() < 0.03
    assert (uniform.mean() - 0.5).abs() < 0.02
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert draws.chance(0.2).float().mean() == pytest.approx(0.2, abs=0.03)
    assert not draws.chance(0.0).any()
    assert draws.chance(1.0).all()
    assert torch.bincount(torch.tensor(draws.integers(3))).min() > 1200


def star_discrepancy(points: torch.Tensor) -> float:
    """The largest gap between the share of points below x and x itself (Niederreiter 1992, theorem 2.6)."""
    ordered, count = points.double().sort().values, len(points)
    ranks = torch.arange(1, count + 1, dtype=torch.float64)
    return float(1 / (2 * count) + (ordered - (2 * ranks - 1) / (2 * count)).abs().max())


@pytest.mark.parametrize("count", [16, 64, 256])
def test_times_are_spread_more_evenly_than_independent_ones(count: int) -> None:
    for start in (0, 123_456, 10_000_000):
        spread = star_discrepancy(Draws(3, range(start, start + count)).spread())
        independent = star_discrepancy(Draws(3, range(start, start + count)).uniform())
        assert spread < 3 / count
        assert spread < independent
