"""Weights in 8 bits: a matrix is kept as whole numbers from -127 to 127 and one factor for each of its rows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from littlecascade.memory.parts import SMALLEST, in_parts


class Int8(NamedTuple):
    """values: int8, of the tensor's shape; factors: float32, (rows, 1, ...)."""

    values: Tensor
    factors: Tensor

    def restore(self, dtype: torch.dtype) -> Tensor:
        """The tensor, each value to within half a factor of its row."""
        tensor = torch.empty_like(self.values, dtype=dtype)
        for rows in in_parts(tensor):
            tensor[rows] = self.values[rows] * self.factors[rows]
        return tensor


def quantise(tensor: Tensor) -> Int8:
    """The nearest such numbers; a row's factor is its largest magnitude over 127."""
    values = torch.empty_like(tensor, dtype=torch.int8)
    factors = torch.empty(len(tensor), *[1] * (tensor.ndim - 1), device=tensor.device)
    for rows in in_parts(tensor):
        part = tensor[rows].detach().float()
        factors[rows] = part.abs().amax(dim=tuple(range(1, part.ndim)), keepdim=True) / 127
        values[rows] = (part / factors[rows].clamp(min=torch.finfo(torch.float32).tiny)).round_().to(torch.int8)
    return Int8(values, factors)


def fits(tensor: Tensor) -> bool:
    """Whether a weight is worth keeping in 8 bits."""
    return tensor.ndim > 1 and tensor.is_floating_point() and tensor.numel() >= SMALLEST
