"""The frozen networks that turn pictures and captions into what a diffusion run is trained on.

Each is loaded when it is first asked for something, so that a run whose data are all cached never holds one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from littlecascade.checkpoint import files
from littlecascade.checkpoint.networks import load_network
from littlecascade.conditioning.image import ImageEncoder
from littlecascade.conditioning.text import TextEncoder
from littlecascade.data.cache import PIXELS, Column
from littlecascade.data.texts import Compute
from littlecascade.errors import InputError
from littlecascade.training.config import DiffusionRun, ImageRun, RunConfig, StageBRun, StageCRun
from littlecascade.training.config_adapters import LoraRun

TEXT_BATCH = 64
SCALES = 5
"""From how many scales of a picture, evenly from the least one to 1, Stage B gets its semantic latents."""
STRIDE = 32  # pixels of a latent of the compressor


def columns_of(config: RunConfig, device: torch.device) -> list[Column]:
    """What a run needs of each picture, computed on a device."""
    match config:
        case StageBRun():
            scales, path = semantic_scales(config), config.effnet_checkpoint_path
            return [*semantic(path, device, scales), stage_a(config.stage_a_checkpoint_path, device)]
        case StageCRun():
            shown = [] if config.image_path is None else [image(config.image_path, device)]
            return [*semantic(config.effnet_checkpoint_path, device), *shown]
        case _:
            return [PIXELS]


def text_folder_of(config: RunConfig) -> Path | None:
    """Where the text tower is whose embeddings of the captions a run keeps; none for one that trains words."""
    if isinstance(config, LoraRun) and config.trains_words:
        return None
    return config.text_path if isinstance(config, DiffusionRun | ImageRun) else None


def semantic_scales(config: StageBRun) -> dict[str, float]:
    """The columns of semantic latents that a run of Stage B chooses from, and how much their pictures are scaled."""
    least = config.effnet_min_scale
    steps = SCALES if least < 1 else 1
    scales = [1 - (1 - least) * step / (SCALES - 1) for step in range(steps)]
    return {f"semantic{f'-{scale:.4g}' if scale < 1 else ''}": scale for scale in scales}


def semantic(
    checkpoint: Path, device: torch.device, scales: Mapping[str, float] = MappingProxyType({"semantic": 1.0})
) -> list[Column]:
    """The compressor's latents, (16, H / 32, W / 32), of pictures at some scales, by the names of their columns."""
    network, key = _network("compressor", checkpoint, device), files.identity([checkpoint])

    def column(name: str, scale: float) -> Column:
        return Column(name, key, lambda pixels: network()(scaled(pixels.to(device), scale)))

    return [column(*own) for own in scales.items()]


def scaled(pixels: Tensor, scale: float) -> Tensor:
    """Pictures (B, 3, H, W) made smaller, their sides rounded down to multiples of 32, as the official training has it.

    >>> scaled(torch.zeros(1, 3, 256, 128), 0.8).shape[2:], scaled(torch.zeros(1, 3, 40, 40), 0.5).shape[2:]
    (torch.Size([192, 96]), torch.Size([32, 32]))
    """
    if scale == 1:
        return pixels
    size = tuple(max(STRIDE, int(side * scale) // STRIDE * STRIDE) for side in pixels.shape[-2:])
    return F.interpolate(pixels, size, mode="bilinear", antialias=True)


def stage_a(checkpoint: Path, device: torch.device) -> Column:
    """Stage A's latents, (4, H / 4, W / 4)."""
    network = _network("stage_a", checkpoint, device)
    return Column("stage_a", files.identity([checkpoint]), lambda pixels: network().encode(pixels.to(device)))


def image(folder: Path, device: torch.device) -> Column:
    """The image tower's embeddings, (1, projection)."""
    encoder = cache(lambda: ImageEncoder.load(folder, torch.float32, device))
    return Column("image", files.identity(files_of(folder)), lambda pixels: encoder().encode(pixels))


def text(folder: Path, device: torch.device) -> tuple[str, Callable[[], Compute]]:
    """A key that stands for a text tower, and what loads it: it gives embeddings of captions cut to one chunk."""

    def load() -> Compute:
        encoder = TextEncoder.load(folder, torch.float32, device)
        encoder.cache_size = 0  # which texts are new, and so how sums are rounded, must not depend on those before
        return lambda texts: encoder.encode(texts, chunks=1, batch_size=TEXT_BATCH)

    return files.identity(files_of(folder)), load


def _network(role: str, checkpoint: Path, device: torch.device) -> Callable[[], Any]:
    return cache(lambda: load_network(role, checkpoint, dtype=torch.float32, device=device))


def files_of(folder: Path) -> list[Path]:
    """The files of a tower. Raises `InputError` where there is no such folder."""
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder.absolute()}, where a text or image tower should be.")
    return sorted(path for path in folder.iterdir() if path.is_file())
