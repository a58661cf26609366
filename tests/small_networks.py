"""Small networks of every role with made-up weights, none of them zero, whose configurations are odd and fit."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from littlecascade.checkpoint.convert import Source
from littlecascade.checkpoint.networks import ROLES
from littlecascade.conditioning.clip import TextConfig, TextTower, VisionConfig, VisionTower
from littlecascade.models.config import (
    CompressorConfig,
    PreviewerConfig,
    StageAConfig,
    StageBConfig,
    StageCConfig,
    StageSpec,
    TrunkConfig,
    to_dict,
)
from littlecascade.presets import Drawing, Preset

CONFIGS = {
    "stage_a": StageAConfig(levels=3, bottleneck_depth=2, width=24, latent_channels=5, codebook_size=7, scale=0.5),
    "stage_b": StageBConfig(
        TrunkConfig(
            in_channels=5,
            out_channels=5,
            patch=2,
            cond_width=24,
            widths=(16, 64, 128),
            heads=(0, 1, 2),
            down_depths=(1, 2, 2),
            up_depths=(2, 3, 1),
            down_repeats=(1, 2, 1),
            up_repeats=(3, 2, 2),
            layouts=("CT", "CTA", "CTA"),
            dropout=(0.0, 0.0, 0.0),
            time_conditions=("sca",),
        ),
        pooled_width=12,
        tokens_per_vector=3,
        effnet_channels=6,
    ),
    "stage_c": StageCConfig(
        TrunkConfig(
            in_channels=6,
            out_channels=6,
            patch=1,
            cond_width=24,
            widths=(64, 128),
            heads=(1, 2),
            down_depths=(1, 2),
            up_depths=(3, 1),
            down_repeats=(1, 2),
            up_repeats=(1, 1),
            layouts=("CTA", "CA"),
            dropout=(0.0, 0.0),
            time_width=32,
            kernel=5,
            switch_level=(False,),
        ),
        text_width=64,
        pooled_width=12,
        image_width=8,
    ),
    "compressor": CompressorConfig(
        stem=8,
        stages=(
            StageSpec("fused", expand=1, kernel=3, stride=1, in_channels=8, out_channels=8, depth=2),
            StageSpec("fused", expand=2, kernel=3, stride=2, in_channels=8, out_channels=12, depth=1),
            StageSpec("mb", expand=3, kernel=5, stride=2, in_channels=12, out_channels=16, depth=2),
        ),
        head=20,
        latent_channels=6,
    ),
    "previewer": PreviewerConfig(latent_channels=6, widths=(16, 8, 4), patch=2),
    "text": TextConfig(64, 2, 1, 12, vocab_size=50, positions=9),
    "image": VisionConfig(128, 1, 2, 8, image_size=16, patch=4),
}


def preset(name: str, **changes: object) -> Preset:
    """A size of such networks."""
    values = {"name": name, **CONFIGS, "drawing": Drawing(image_size=96, compression=32.0)} | changes
    return Preset(**values)


def build(role: str, config: object = None) -> nn.Module:
    """A network of a role, on whatever device is the default."""
    config = config or CONFIGS[role]
    match role:
        case "text":
            return TextTower(config)
        case "image":
            return VisionTower(config)
        case _:
            return ROLES[role].network(config)


def weights(role: str, config: object = None, seed: int = 0) -> dict[str, Tensor]:
    """Weights from which a network's outputs stay of about unit size; variances are positive."""
    generator = torch.Generator().manual_seed(seed)
    tensors = build(role, config).state_dict()
    for name, tensor in tensors.items():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(3)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.ndim > 1 and "gamma" not in name and "beta" not in name:
            tensor.normal_(std=tensor[0].numel() ** -0.5, generator=generator)
        else:
            tensor.normal_(std=0.1, generator=generator)
    return tensors


def source(role: str, config: object = None) -> Source:
    """A part to write."""
    tensors = weights(role, config)
    return Source(role, to_dict(config or CONFIGS[role]), tensors, outline(tensors), {})


def outline(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors without their data."""
    return {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
