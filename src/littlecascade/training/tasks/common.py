"""What several tasks do alike: laying out previews, measuring pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from PIL import Image
from torch import Tensor

from littlecascade.data.pixels import to_image
from littlecascade.models.config import TrunkConfig


def grid(rows: Sequence[Sequence[Tensor]], scale: int = 1) -> Image.Image:
    """Rows of pictures, each (3, H, W) in [0, 1], all of the size of the first, side by side."""
    height, width = (side * scale for side in rows[0][0].shape[-2:])
    sheet = Image.new("RGB", (max(map(len, rows)) * width, len(rows) * height), "white")
    for y, row in enumerate(rows):
        for x, pixels in enumerate(row):
            sheet.paste(to_image(pixels).resize((width, height), Image.Resampling.BICUBIC), (x * width, y * height))
    return sheet


def psnr(original: Tensor, other: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [0, 1], over all their values; NaN for none."""
    error = (original.float() - other.float().clamp(0, 1)).square().mean()
    return float(-10 * torch.log10(error + 1e-12))


def with_dropout(trunk: TrunkConfig, dropout: float | None) -> TrunkConfig:
    """`trunk` with this dropout at every level; as it is for None."""
    return trunk if dropout is None else replace(trunk, dropout=(dropout,) * len(trunk.widths))


def keep(values: Tensor, kept: Tensor) -> Tensor:
    """values: (B, ...) with zeros in the rows where `kept`, (B,) bool, is false."""
    return choose(kept, values, torch.zeros_like(values))


def choose(first: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """(B, ...): the rows of `one` where `first`, (B,) bool, is true, and those of `other` elsewhere."""
    return torch.where(first.view(-1, *[1] * (one.ndim - 1)), one, other)
