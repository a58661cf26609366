"""Weights in 8 bits: a matrix is kept as whole numbers from -127 to 127 and one factor for each of its rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

SMALLEST = 1 << 12
"""Values that a tensor must have to be kept in 8 bits; in smaller ones there is little to save."""


AT_ONCE = 1 << 18
"""Values that are worked on at once."""


class Int8(NamedTuple):
    """values: int8, of the tensor's shape; factors: float32, (rows, 1, ...)."""

    values: Tensor
    factors: Tensor

    def to(self, device: torch.device) -> Int8:
        """The same on a device."""
        return Int8(self.values.to(device), self.factors.to(device))

    def restore(self, dtype: torch.dtype) -> Tensor:
        """The tensor, each value to within half a factor of its row."""
        tensor = torch.empty_like(self.values, dtype=dtype)
        for rows in _parts(tensor):
            tensor[rows] = self.values[rows] * self.factors[rows]
        return tensor


def quantise(tensor: Tensor) -> Int8:
    """The nearest such numbers; a row's factor is its largest magnitude over 127."""
    values = torch.empty_like(tensor, dtype=torch.int8)
    factors = torch.empty(len(tensor), *[1] * (tensor.ndim - 1), device=tensor.device)
    for rows in _parts(tensor):
        part = tensor[rows].detach().float()
        factors[rows] = part.abs().amax(dim=tuple(range(1, part.ndim)), keepdim=True) / 127
        values[rows] = (part / factors[rows].clamp(min=torch.finfo(torch.float32).tiny)).round_().to(torch.int8)
    return Int8(values, factors)


def _parts(tensor: Tensor) -> Iterator[slice]:
    """Some rows at a time, whose float32 copies stay small, and in a CPU's cache."""
    step = max(1, AT_ONCE * len(tensor) // max(1, tensor.numel()))
    return (slice(start, start + step) for start in range(0, len(tensor), step))


def is_matrix(tensor: Tensor) -> bool:
    """Whether a weight is worth keeping in 8 bits."""
    return tensor.ndim > 1 and tensor.is_floating_point() and tensor.numel() >= SMALLEST
