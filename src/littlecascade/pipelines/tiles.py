"""Stage A's decoder over a large picture, a tile at a time."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from littlecascade.memory.measure import free_memory
from littlecascade.models.stage_a import StageA

LARGEST, SMALLEST = 256, 96
"""Sides of tiles, in latents."""
BYTES = 8 * 1024
"""What the official decoder takes for each latent of a tile, for each byte of a number: benchmarks/memory.py."""
SHARE = 0.5
"""How much of the free memory a tile may take."""


def tile_side(device: torch.device, dtype: torch.dtype) -> int:
    """How large tiles may be, in latents, for what is free on a device."""
    fitting = math.isqrt(int(SHARE * free_memory(device) / (BYTES * dtype.itemsize)))
    return min(LARGEST, max(SMALLEST, fitting // 8 * 8))


def decode_in_tiles(stage_a: StageA, latents: Tensor, side: int) -> Tensor:
    """What `stage_a.decode` gives for latents (B, C, h, w), computed in tiles of at most `side` x `side` latents.

    Tiles overlap by as far as the decoder looks, so that it sees the same around every latent, and there is no seam.
    """
    height, width = latents.shape[2:]
    if height <= side and width <= side:
        return stage_a.decode(latents)
    margin, factor = reach(stage_a), 2**stage_a.config.levels
    rows, columns = (_spans(length, side, margin) for length in (height, width))
    pixels = torch.empty(len(latents), 3, height * factor, width * factor, dtype=stage_a.dtype, device=latents.device)
    for top, bottom in rows:
        for left, right in columns:
            above, before = max(0, top - margin), max(0, left - margin)
            tile = stage_a.decode(latents[..., above : bottom + margin, before : right + margin])
            inner = tile[..., (top - above) * factor :, (left - before) * factor :]
            area = pixels[..., top * factor : bottom * factor, left * factor : right * factor]
            area.copy_(inner[..., : area.shape[-2], : area.shape[-1]])
    return pixels


def reach(stage_a: StageA) -> int:
    """How many latents away the decoder looks: one for each 3 x 3 convolution and each upscaler, less on finer maps."""
    return stage_a.config.bottleneck_depth + 2 * stage_a.config.levels


def _spans(length: int, side: int, margin: int) -> list[tuple[int, int]]:
    """Spans of nearly one size that cover `length`, each no longer than `side` with its margins."""
    if length <= side:
        return [(0, length)]
    count = math.ceil(length / (side - 2 * margin))
    edges = [length * number // count for number in range(count + 1)]
    return list(pairwise(edges))
