"""Weights in 8 bits: a matrix is kept as whole numbers from -127 to 127 and one factor for each of its rows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

SMALLEST = 1 << 12
"""Values that a tensor must have to be kept in 8 bits; in smaller ones there is little to save."""


class Int8(NamedTuple):
    """values: int8, of the tensor's shape; factors: float32, (rows, 1, ...)."""

    values: Tensor
    factors: Tensor

    def to(self, device: torch.device) -> Int8:
        """The same on a device."""
        return Int8(self.values.to(device), self.factors.to(device))

    def restore(self, dtype: torch.dtype) -> Tensor:
        """The tensor, each value to within half a factor of its row."""
        return (self.values * self.factors).to(dtype)


def quantise(tensor: Tensor) -> Int8:
    """The nearest such numbers; a row's factor is its largest magnitude over 127."""
    rows = tensor.detach().float()
    factors = rows.abs().amax(dim=tuple(range(1, rows.ndim)), keepdim=True) / 127
    values = (rows / factors.clamp(min=torch.finfo(torch.float32).tiny)).round_().to(torch.int8)
    return Int8(values, factors)


def is_matrix(tensor: Tensor) -> bool:
    """Whether a weight is worth keeping in 8 bits."""
    return tensor.ndim > 1 and tensor.is_floating_point() and tensor.numel() >= SMALLEST
