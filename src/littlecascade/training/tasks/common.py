"""What several tasks do alike: opening data, building or loading networks, laying out previews."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from littlecascade.checkpoint.networks import ROLES, load_network
from littlecascade.data.order import derive_seed
from littlecascade.data.pixels import PixelCache, pixel_cache, to_image
from littlecascade.data.sources import find_samples
from littlecascade.memory.precision import cast, choose_dtype
from littlecascade.models.config import TrunkConfig
from littlecascade.training.config import RunConfig


def open_pixels(config: RunConfig) -> PixelCache:
    """The decoded pictures of a run's data."""
    return pixel_cache(find_samples(config.webdataset_path), config.image_size, config.cache_folder)


def trainable(role: str, network_config: Any, config: RunConfig, checkpoint: Path | None = None, **options: Any) -> Any:
    """The network that a run trains: from `checkpoint` if given, else drawn from the run's seed."""
    if checkpoint is not None:
        network = load_network(role, checkpoint, config=network_config, dtype=torch.float32)
    else:
        network = ROLES[role].network(network_config)
        network.initialise(torch.Generator().manual_seed(derive_seed(config.seed, len(role))), **options)
    return cast(network, choose_dtype(config.precision, "cpu")).train().requires_grad_(True)


def grid(rows: Sequence[Sequence[Tensor]], scale: int = 1) -> Image.Image:
    """Rows of pictures, each (3, H, W) in [0, 1], all of the size of the first, side by side."""
    height, width = rows[0][0].shape[-2:]
    sheet = Image.new("RGB", (max(map(len, rows)) * width * scale, len(rows) * height * scale), "white")
    for y, row in enumerate(rows):
        for x, pixels in enumerate(row):
            picture = to_image(pixels).resize((width * scale, height * scale), Image.Resampling.BICUBIC)
            sheet.paste(picture, (x * width * scale, y * height * scale))
    return sheet


def psnr(original: Tensor, other: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [0, 1], over all their values."""
    error = (original.float() - other.float().clamp(0, 1)).square().mean()
    return float(-10 * torch.log10(error + 1e-12))


def with_dropout(trunk: TrunkConfig, dropout: float | None) -> TrunkConfig:
    """`trunk` with this dropout at every level; as it is for None."""
    return trunk if dropout is None else replace(trunk, dropout=(dropout,) * len(trunk.widths))
