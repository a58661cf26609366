"""The frozen networks that turn pictures and captions into what a diffusion run is trained on.

Each is loaded when it is first asked for something, so that a run whose data are all cached never holds one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

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


def columns_of(config: RunConfig, device: torch.device) -> list[Column]:
    """What a run needs of each picture, computed on a device."""
    match config:
        case StageBRun():
            semantic_latents = semantic(config.effnet_checkpoint_path, device)
            return [semantic_latents, stage_a(config.stage_a_checkpoint_path, device)]
        case StageCRun():
            shown = [] if config.image_path is None else [image(config.image_path, device)]
            return [semantic(config.effnet_checkpoint_path, device), *shown]
        case _:
            return [PIXELS]


def text_folder_of(config: RunConfig) -> Path | None:
    """Where the text tower is whose embeddings of the captions a run keeps; none for one that trains words."""
    if isinstance(config, LoraRun) and config.train_tokens:
        return None
    return config.text_path if isinstance(config, DiffusionRun | ImageRun) else None


def semantic(checkpoint: Path, device: torch.device) -> Column:
    """The compressor's latents, (16, H / 32, W / 32)."""
    network = _network("compressor", checkpoint, device)
    return Column("semantic", files.identity([checkpoint]), lambda pixels: network()(pixels.to(device)))


def stage_a(checkpoint: Path, device: torch.device) -> Column:
    """Stage A's latents, (4, H / 4, W / 4)."""
    network = _network("stage_a", checkpoint, device)
    return Column("stage_a", files.identity([checkpoint]), lambda pixels: network().encode(pixels.to(device)))


def image(folder: Path, device: torch.device) -> Column:
    """The image tower's embeddings, (1, projection)."""
    encoder = cache(lambda: ImageEncoder.load(folder, torch.float32, device))
    return Column("image", files.identity(_files(folder)), lambda pixels: encoder().encode(pixels))


def text(folder: Path, device: torch.device) -> tuple[str, Callable[[], Compute]]:
    """A key that stands for a text tower, and what loads it: it gives embeddings of captions cut to one chunk."""

    def load() -> Compute:
        encoder = TextEncoder.load(folder, torch.float32, device)
        return lambda texts: encoder.encode(texts, chunks=1, batch_size=TEXT_BATCH)

    return files.identity(_files(folder)), load


def _network(role: str, checkpoint: Path, device: torch.device) -> Callable[[], Any]:
    return cache(lambda: load_network(role, checkpoint, dtype=torch.float32, device=device))


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder.absolute()}, where a text or image tower should be.")
    return sorted(path for path in folder.iterdir() if path.is_file())
