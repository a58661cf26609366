"""What several tasks do alike: building or loading networks, laying out previews."""

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
from littlecascade.data.order import derive_seed
from littlecascade.data.pixels import to_image
from littlecascade.memory.precision import cast, choose_dtype
from littlecascade.models.config import TrunkConfig
from littlecascade.training.config import RunConfig


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


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within: torch's global generator starts at `seed`. Afterwards it is as before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


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
