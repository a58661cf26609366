"""The previewer: a quick, small picture of semantic latents."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from littlecascade.models.config import PreviewerConfig
from littlecascade.nn.initialise import draw_default


class Previewer(nn.Module):
    """A stack of convolutions, each followed by GELU and batch norm; a transposed one per doubling of the side."""

    def __init__(self, config: PreviewerConfig) -> None:
        super().__init__()
        self.config = config
        first = config.widths[0]
        layers = [
            *_activated(nn.Conv2d(config.latent_channels, first, kernel_size=1)),
            *_activated(nn.Conv2d(first, first, kernel_size=3, padding=1)),
        ]
        for wide, narrow in pairwise(config.widths):
            layers += _activated(nn.ConvTranspose2d(wide, narrow, kernel_size=2, stride=2))
            layers += _activated(nn.Conv2d(narrow, narrow, kernel_size=3, padding=1))
        self.blocks = nn.Sequential(*layers, nn.Conv2d(config.widths[-1], 3 * config.patch**2, kernel_size=1))

    @property
    def dtype(self) -> torch.dtype:
        """Of the convolutions, and so of the pixels that come out."""
        return next(self.parameters()).dtype

    def initialise(self, generator: Generator | None = None) -> None:
        """Draw weights to train from scratch, the same ones from the same `generator`."""
        draw_default(self, generator)

    def forward(self, latents: Tensor) -> Tensor:
        """latents: (B, latent_channels, h, w). Returns pixels (B, 3, h * f, w * f), f = patch * 2**(len(widths) - 1).

        Pixels are meant to be in [0, 1] and may lie a little outside.
        """
        return F.pixel_shuffle(
            self.blocks(latents.to(self.dtype, memory_format=torch.channels_last)), self.config.patch
        )


def _activated(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    return [convolution, nn.GELU(), nn.BatchNorm2d(convolution.out_channels)]
