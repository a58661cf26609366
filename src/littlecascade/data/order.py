"""The order in which samples are visited: a function of the seed and the position alone, so that it needs no state."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

GOLDEN, SILVER = 0.6180339887498949, 0.4142135623730951
"""Two ratios whose multiples, modulo 1, spread evenly over [0, 1), each and both together."""


class EpochOrder:
    """An endless walk over `count` samples: every epoch a fresh permutation drawn from (seed, epoch).

    Position p is sample `permutation[epoch][p % count]` with `epoch = p // count`; a run goes on from any position.
    """

    def __init__(self, count: int, seed: int) -> None:
        if count < 1:
            raise ValueError("an order needs at least one sample")
        self.count = count
        self.seed = seed
        self._epoch = -1
        self._permutation: list[int] = []

    def __getitem__(self, position: int) -> int:
        epoch, index = divmod(position, self.count)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, epoch))
            self._permutation = torch.randperm(self.count, generator=generator).tolist()
            self._epoch = epoch
        return self._permutation[index]


class GroupOrder:
    """An endless walk in batches, each from one of several groups of samples; each group has an `EpochOrder`.

    Batch n is from the group in whose share of [0, 1) n times `SILVER`, modulo 1, falls.
    So any run of batches has the groups in proportion to their sizes, and all samples come about equally often. A
    group smaller than a batch comes more than once in it.
    """

    def __init__(self, groups: Sequence[Sequence[int]], batch: int, seed: int) -> None:
        self.groups, self.batch = groups, batch
        sizes = np.array([len(group) for group in groups], dtype=np.float64)
        self._edges = np.cumsum(sizes)[:-1] / sizes.sum()
        self._orders = [EpochOrder(len(group), seed) for group in groups]
        self._number, self._before = 0, np.zeros(len(groups), dtype=np.int64)  # batches of each group before number

    def __getitem__(self, number: int) -> list[int]:
        """The samples of batch `number`."""
        if number < self._number:
            self._number, self._before[:] = 0, 0
        passed = self._group_of(np.arange(self._number, number))
        self._before += np.bincount(passed, minlength=len(self.groups))
        self._number = number
        group = int(self._group_of(np.array([number]))[0])
        start = int(self._before[group]) * self.batch
        order = self._orders[group]
        return [self.groups[group][order[position]] for position in range(start, start + self.batch)]

    def _group_of(self, numbers: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._edges, numbers * SILVER % 1, side="right")


def derive_seed(*parts: int) -> int:
    """One 63-bit seed from several whole numbers; nearby inputs give unrelated seeds (SplitMix64's mixing function).

    >>> derive_seed(0, 1) != derive_seed(1, 0)
    True
    """
    mask = (1 << 64) - 1
    value = 0
    for part in parts:
        value = (value + part + 0x9E3779B97F4A7C15) & mask
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
        value ^= value >> 31
    return value >> 1
