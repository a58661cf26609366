"""Stochastic rounding: what lets weights of 16 bits learn from updates that are smaller than their spacing."""

from __future__ import annotations

import torch
from torch import Tensor

AT_ONCE, AT_ONCE_ON_GPU = 1 << 16, 1 << 24
"""Values that are worked on at once, so that what is made on the way stays small, and on a CPU in its cache."""

EXPONENT = 0x7F800000
"""The bits of a float32 that hold its exponent."""


def round_stochastically(values: Tensor, dtype: torch.dtype, seed: int) -> Tensor:
    """`values`, float32, as `dtype` (bfloat16 or float16): each becomes one of its two neighbours there, the nearer one
    with the greater probability, such that its expectation is the value itself (Gupta et al. 2015, section 3).

    16 random bits a value come from `seed`; what lies beyond the largest finite number becomes that number.
    """
    generator = torch.Generator(values.device).manual_seed(seed)
    rounded = torch.empty_like(values, dtype=dtype, memory_format=torch.contiguous_format)
    parts = at_once(values.device)
    for source, target in zip(values.reshape(-1).split(parts), rounded.view(-1).split(parts), strict=True):
        target.copy_(_round(source, torch.finfo(dtype), _noise(source, generator)))
    return rounded


def at_once(device: torch.device) -> int:
    """Values that are worked on at once on a device."""
    return AT_ONCE if device.type == "cpu" else AT_ONCE_ON_GPU


def _round(values: Tensor, format: torch.finfo, noise: Tensor) -> Tensor:
    """All steps but the comparison are exact: `spacing` is a power of two, and a fraction has fewer bits than noise."""
    smallest = max(format.smallest_normal * format.eps, torch.finfo(torch.float32).smallest_normal)
    power = (values.view(torch.int32) & EXPONENT).view(torch.float32)
    spacing = (power * format.eps).clamp_(min=smallest)
    scaled = values / spacing
    below = scaled.floor()
    return ((below + (noise < scaled - below)) * spacing).clamp_(format.min, format.max)


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Multiples of 2**-16, even in [0, 1); four from each random number of 64 bits."""
    drawn = torch.empty(-(-like.numel() // 4), dtype=torch.int64, device=like.device)
    bits = drawn.random_(-(2**63), None, generator=generator).view(torch.int16)[: like.numel()]
    return (bits.float() + 2**15) / 2**16
