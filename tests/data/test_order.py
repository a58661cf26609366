from __future__ import annotations

from collections import Counter

import pytest

from littlecascade.data.order import EpochOrder, GroupOrder, derive_seed


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


def test_batches_of_one_group_go_through_its_epochs() -> None:
    order, epochs = GroupOrder([[5, 6, 7]], 2, seed=4), EpochOrder(3, seed=4)
    walked = [sample for number in range(6) for sample in order[number]]
    assert walked == [5 + epochs[position] for position in range(12)]


def test_a_batch_is_of_one_group_and_all_samples_come_about_equally_often() -> None:
    groups = [list(range(100)), list(range(100, 130)), [200]]
    order = GroupOrder(groups, 4, seed=0)
    batches = [order[number] for number in range(1310)]  # ten visits of each of the 131 samples would be 327 batches
    assert all(any(set(batch) <= set(group) for group in groups) for batch in batches)
    visits = Counter(sample for batch in batches for sample in batch)
    assert set(visits) == {sample for group in groups for sample in group}
    assert all(36 <= count <= 44 for count in visits.values())


def test_a_batch_means_the_same_whatever_was_asked_before() -> None:
    groups = [[1, 2, 3], [4, 5], [6]]
    forwards = [GroupOrder(groups, 2, seed=1)[number] for number in range(50)]
    order = GroupOrder(groups, 2, seed=1)
    assert [order[number] for number in reversed(range(50))] == forwards[::-1]


def test_groups_and_times_do_not_go_together() -> None:
    """With one picture a batch, each group is to see early and late times alike."""
    from littlecascade.training.draws import Draws

    order = GroupOrder([[0] * 3, [1] * 2], 1, seed=0)
    times = Draws(0, range(500)).spread().tolist()
    seen = [[time for number, time in enumerate(times) if order[number] == [group]] for group in (0, 1)]
    for own in seen:
        counts = Counter(int(time * 4) for time in own)
        assert all(abs(counts[quarter] / len(own) - 0.25) < 0.03 for quarter in range(4))
