"""The order in which samples are visited: a function of the seed and the position alone, so that it needs no state."""

from __future__ import annotations

import torch


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
