"""The frozen networks that turn pictures and captions into what a diffusion run is trained on.

Each is loaded when it is first asked for something, so that a run whose data are all cached never holds one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from littlecascade.checkpoint import files
from littlecascade.checkpoint.networks import load_network
from littlecascade.conditioning.image import ImageEncoder
from littlecascade.conditioning.text import TextEmbedding, TextEncoder
from littlecascade.data.cache import PIXELS, Column
from littlecascade.errors import InputError
from littlecascade.training.config import DiffusionRun, ImageRun, RunConfig, StageBRun, StageCRun
from littlecascade.training.config_adapters import LoraRun

TEXT_BATCH = 256


def columns_of(config: RunConfig) -> list[Column]:
    """What a run needs of each picture."""
    match config:
        case StageBRun():
            return [semantic(config.effnet_checkpoint_path), stage_a(config.stage_a_checkpoint_path)]
        case StageCRun():
            shown = [] if config.image_path is None else [image(config.image_path)]
            return [semantic(config.effnet_checkpoint_path), *shown]
        case _:
            return [PIXELS]


def text_folder_of(config: RunConfig) -> Path | None:
    """Where the text tower is whose embeddings of the captions a run keeps; none for one that trains words."""
    if isinstance(config, LoraRun) and config.train_tokens:
        return None
    return config.text_path if isinstance(config, DiffusionRun | ImageRun) else None


def semantic(checkpoint: Path) -> Column:
    """The compressor's latents, (16, H / 32, W / 32)."""
    network = _network("compressor", checkpoint)
    return Column("semantic", files.identity([checkpoint]), lambda pixels: network()(pixels))


def stage_a(checkpoint: Path) -> Column:
    """Stage A's latents, (4, H / 4, W / 4)."""
    network = _network("stage_a", checkpoint)
    return Column("stage_a", files.identity([checkpoint]), lambda pixels: network().encode(pixels))


def image(folder: Path) -> Column:
    """The image tower's embeddings, (1, projection)."""
    encoder = cache(lambda: ImageEncoder.load(folder, torch.float32))
    return Column("image", files.identity(_files(folder)), lambda pixels: encoder().encode(pixels))


def text(folder: Path) -> tuple[str, Callable[[Sequence[str]], TextEmbedding]]:
    """The text tower's embeddings of captions, cut to one chunk of tokens, and a key that stands for the tower."""
    encoder = cache(lambda: TextEncoder.load(folder, torch.float32))

    def compute(texts: Sequence[str]) -> TextEmbedding:
        return encoder().encode(texts, chunks=1, batch_size=TEXT_BATCH)

    return files.identity(_files(folder)), compute


def _network(role: str, checkpoint: Path) -> Callable[[], Any]:
    return cache(lambda: load_network(role, checkpoint, dtype=torch.float32))


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder.absolute()}, where a text or image tower should be.")
    return sorted(path for path in folder.iterdir() if path.is_file())
