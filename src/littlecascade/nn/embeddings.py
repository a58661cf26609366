"""Embeddings of scalars."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def time_embedding(values: Tensor, width: int, scale: float = 10_000.0) -> Tensor:
    """Sines, then cosines, of `values * scale` at `width // 2` frequencies from 1 down to 1 / scale, geometrically.

    values: (B,), usually in [0, 1]. Returns (B, width) in float32, whatever the dtype of `values`: bfloat16 holds only
    8 bits, and 0.9999 * 10000 would become 9984. Attention is All You Need, section 3.5, with the continuous time of
    a diffusion in place of the position.
    """
    half = width // 2
    exponents = torch.arange(half, device=values.device, dtype=torch.float32) * (-math.log(scale) / (half - 1))
    angles = (values.float() * scale)[:, None] * exponents.exp()
    return torch.cat([angles.sin(), angles.cos()], dim=1)
