from __future__ import annotations

import pytest

from littlecascade.data.order import EpochOrder, derive_seed


def test_every_epoch_is_another_permutation() -> None:
    order = EpochOrder(10, seed=3)
    epochs = [[order[position] for position in range(start, start + 10)] for start in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 3


def test_a_position_means_the_same_whatever_was_asked_before() -> None:
    order = EpochOrder(7, seed=1)
    forwards = [order[position] for position in range(40)]
    backwards = [order[position] for position in reversed(range(40))]
    assert backwards[::-1] == forwards
    assert EpochOrder(7, seed=1)[33] == forwards[33]
    assert [EpochOrder(7, seed=2)[position] for position in range(40)] != forwards


def test_an_order_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        EpochOrder(0, seed=0)


def test_derived_seeds_do_not_collide_nearby() -> None:
    seeds = {derive_seed(*parts) for a in range(30) for b in range(30) for parts in ((a, b), (a, b, 0))}
    assert len(seeds) == 2 * 30 * 30
    assert all(0 <= seed < 2**63 for seed in seeds)
