"""Weights in 4 bits: NormalFloat, with a scale for every 64 values (Dettmers et al. 2023, "QLoRA", section 3).

One thing is simpler than in the paper, whose double quantisation keeps scales in 8 bits beside a second level of
scales: here they are bfloat16, 4.25 bits a value in all in place of 4.13, and nothing can go wrong in a matrix some of
whose blocks are far larger than others.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from littlecascade.memory.parts import SMALLEST, in_parts

BLOCK = 64
"""Values in a row that share one scale, their largest magnitude."""

_EDGE = 1 - (1 / 30 + 1 / 32) / 2
"""The probability below the outermost quantile, so that none is infinite (the paper's code: 0.9677083)."""


class Nf4(NamedTuple):
    """Of a matrix (rows, columns).

    codes: uint8, (rows, columns / 2), each of two values, the first in the upper half. scales: bfloat16,
    (rows, columns / BLOCK).
    """

    codes: Tensor
    scales: Tensor

    def restore(self, dtype: torch.dtype) -> Tensor:
        """The matrix: levels times scales, computed in float32."""
        matrix = torch.empty(len(self.codes), 2 * self.codes.shape[1], dtype=dtype, device=self.codes.device)
        known = pairs(matrix.device)
        for rows in in_parts(matrix):
            values = known.index_select(0, self.codes[rows].flatten().int()).view(-1, BLOCK)
            matrix[rows] = values.mul_(self.scales[rows].float().view(-1, 1)).view_as(matrix[rows])
        return matrix


@cache
def levels() -> Tensor:
    """The 16 numbers that a code stands for, ascending from -1 to 1, among them 0: float32.

    Of a normal distribution these are quantiles at even steps of probability, seven below zero and eight above it,
    divided by the largest.
    """
    above, below = (
        torch.special.ndtri(torch.linspace(_EDGE, 0.5, count + 1, dtype=torch.float64))[:-1] for count in (8, 7)
    )
    numbers = torch.cat([-below, torch.zeros(1), above.flip(0)])
    return (numbers / numbers.max()).float()


@cache
def pairs(device: torch.device) -> Tensor:
    """The two levels that each byte stands for, (256, 2)."""
    return torch.cartesian_prod(levels(), levels()).to(device)


@torch.no_grad()
def quantise(matrix: Tensor) -> Nf4:
    """The nearest levels. matrix: (rows, columns), with columns a multiple of BLOCK."""
    rows, columns = matrix.shape
    codes = torch.empty(rows, columns // 2, dtype=torch.uint8, device=matrix.device)
    scales = torch.empty(rows, columns // BLOCK, dtype=torch.bfloat16, device=matrix.device)
    known = levels().to(matrix.device)
    middles = (known[:-1] + known[1:]) / 2
    for part in in_parts(matrix):
        blocks = matrix[part].float().unflatten(1, (-1, BLOCK))
        scales[part] = blocks.abs().amax(dim=2)
        scale = scales[part].float().clamp(min=torch.finfo(torch.float32).tiny)
        first, second = torch.bucketize(blocks / scale[..., None], middles, out_int32=True).view(-1, 2).unbind(1)
        codes[part] = (first << 4 | second).view_as(codes[part])
    return Nf4(codes, scales)


def fits(tensor: Tensor) -> bool:
    """Whether a weight is a matrix that can be kept, and is worth keeping, in 4 bits."""
    return (
        tensor.ndim == 2 and tensor.shape[1] % BLOCK == 0 and tensor.is_floating_point() and tensor.numel() >= SMALLEST
    )
