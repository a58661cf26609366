"""Random numbers of a micro-batch, each row drawn from its own sample's generator.

So a sample's crop, caption, time and noise do not depend on the batch it is in: accumulating four micro-batches of one
equals one of four, and a run that goes on draws what it would have drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from littlecascade.data.order import GOLDEN, derive_seed


class Draws:
    """Draws for the samples at `positions` of a run's order; `stream` tells apart draws of different purpose."""

    def __init__(self, seed: int, positions: Sequence[int], stream: int = 0) -> None:
        self.positions = positions
        self.offset = float(torch.rand((), generator=torch.Generator().manual_seed(derive_seed(seed, stream))))
        self.generators = [torch.Generator().manual_seed(derive_seed(seed, stream, at)) for at in positions]

    def normal(self, *shape: int) -> Tensor:
        """(B, *shape), standard normal."""
        return torch.stack([torch.randn(shape, generator=generator) for generator in self.generators])

    def uniform(self, *shape: int) -> Tensor:
        """(B, *shape), even in [0, 1)."""
        return torch.stack([torch.rand(shape, generator=generator) for generator in self.generators])

    def integers(self, high: int) -> list[int]:
        """One whole number in [0, high) a sample."""
        return [int(torch.randint(high, (), generator=generator)) for generator in self.generators]

    def chance(self, share: float) -> Tensor:
        """(B,) bool, true with probability `share`."""
        return self.uniform() < share

    def spread(self) -> Tensor:
        """(B,), even in [0, 1) and evenly spread over any run of positions: the golden ratio's additive recurrence."""
        points = torch.tensor(self.positions, dtype=torch.float64) * GOLDEN + self.offset
        return (points % 1).float()
