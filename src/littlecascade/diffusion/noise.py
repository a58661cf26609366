"""Noise that is drawn from explicit generators, one per image, and noise with more of it at low frequencies.

Everything is drawn in float32 on the generators' device and then moved: with generators on the CPU a seed means the
same noise on every device and in every batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def image_noise(shape: Sequence[int], generators: Sequence[torch.Generator], *, like: Tensor | None = None) -> Tensor:
    """Standard normal noise `(B, *shape)`, image i from generator i, on the device and in the dtype of `like`."""
    noise = torch.stack(
        [torch.randn(tuple(shape), generator=generator, device=generator.device) for generator in generators]
    )
    return noise if like is None else noise.to(like)


def offset_noise(noise: Tensor, strength: float, *, generators: Sequence[torch.Generator]) -> Tensor:
    """`noise` `(B, C, H, W)` plus `strength` times one normal number per image and channel (Guttenberg 2023).

    With it a network learns to move the mean brightness. The variance becomes `1 + strength^2`.
    """
    return noise + strength * image_noise((noise.shape[1], 1, 1), generators, like=noise)


def pyramid_noise(
    noise: Tensor,
    *,
    generators: Sequence[torch.Generator],
    levels: int = 10,
    decay: float = 0.75,
    sizes: tuple[int, int] = (1, 16),
) -> Tensor:
    """`noise` `(B, C, H, W)` mixed with coarser noise, its variance still 1 (Whitaker 2023, "multi-resolution noise").

    Level i adds `decay^i` times noise of `(H / 2^i, W / 2^i)` cells, enlarged without smoothing, for i below `levels`;
    only levels whose longer side has `sizes[0]` to `sizes[1]` cells are added.
    """
    channels, height, width = noise.shape[1:]
    mixed, variance = noise, 1.0
    for level in range(1, levels):
        rows, columns = height >> level, width >> level
        if min(rows, columns) < 1:
            break
        if sizes[0] <= max(rows, columns) <= sizes[1]:
            coarse = image_noise((channels, rows, columns), generators, like=noise)
            mixed = mixed + decay**level * F.interpolate(coarse, size=(height, width), mode="nearest")
            variance += decay ** (2 * level)
    return mixed / variance**0.5
