"""What several tasks do alike: opening data, building or loading networks, laying out previews."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from littlecascade.checkpoint import assign, files
from littlecascade.checkpoint.networks import ROLES, load_network, read_config
from littlecascade.data.cache import TensorCache, cached, fingerprint
from littlecascade.data.order import derive_seed
from littlecascade.data.pixels import PixelCache, pixel_cache, to_image
from littlecascade.data.sources import find_samples
from littlecascade.memory.precision import cast, choose_dtype
from littlecascade.models.config import TrunkConfig
from littlecascade.training.config import RunConfig


def open_pixels(config: RunConfig) -> PixelCache:
    """The decoded pictures of a run's data."""
    return pixel_cache(find_samples(config.webdataset_path), config.image_size, config.cache_folder)


def compute_dtype(config: RunConfig) -> torch.dtype:
    """The format that a run's networks compute in."""
    return choose_dtype(config.precision, "cpu")


def trainable(role: str, network_config: Any, config: RunConfig, checkpoint: Path | None = None) -> Any:
    """The network that a run trains: with the weights of `checkpoint` if given, else drawn from the run's seed."""
    if checkpoint is not None:
        factory = ROLES[role].network
        tensors = files.load(checkpoint)
        network = assign.build(lambda: factory(network_config), tensors, dtype=torch.float32, source=str(checkpoint))
    else:
        network = ROLES[role].network(network_config)
        network.initialise(torch.Generator().manual_seed(derive_seed(config.seed, *role.encode())))
    return cast(network, compute_dtype(config)).train().requires_grad_(True)


def network_config(role: str, preset: Any, checkpoint: Path | None) -> Any:
    """How the network to train is built: as `checkpoint` says, if there is one and it says so, else as the preset."""
    return preset if checkpoint is None else read_config(role, checkpoint) or preset


def frozen(role: str, path: Path) -> Any:
    """A network that a run uses and does not train, in float32."""
    return load_network(role, path, dtype=torch.float32)


def semantic_latents(pixels: PixelCache, config: RunConfig, checkpoint: Path) -> TensorCache:
    """The compressor's latents of all pictures, (16, S / 32, S / 32) each."""
    compressor = frozen("compressor", checkpoint)
    key = f"{pixels.key} {fingerprint(compressor)}"
    return cached(config.cache_folder, "effnet", key, len(pixels), lambda rows: compressor(pixels.batch(rows)))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within: torch's global generator starts at `seed`. Afterwards it is as before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def spread(count: int, total: int) -> list[int]:
    """`count` indices spread evenly over `total` samples, some of them twice where there are fewer."""
    return [number * total // count for number in range(count)]


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
