"""What the cascade gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Result:
    """Pictures, and how they came about; everything is in the order of the prompts.

    latents: (N, 16, h, w) of Stage C. recipes: what it takes to draw each picture again. timings: seconds by part.
    """

    images: list[Image.Image]
    latents: Tensor
    recipes: list[dict[str, Any]]
    timings: dict[str, float]

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe of the first picture."""
        return self.recipes[0]


@dataclass(frozen=True)
class Reconstruction:
    """A picture and what its semantic latents (1, 16, h, w) bring back of it.

    psnr: in dB over all pixels. compression_factor: the picture's values per value of the latents.
    """

    original: Image.Image
    image: Image.Image
    latents: Tensor
    psnr: float
    compression_factor: float

    @property
    def side_by_side(self) -> Image.Image:
        """Original left, reconstruction right."""
        width, height = self.original.size
        sheet = Image.new("RGB", (2 * width, height))
        sheet.paste(self.original, (0, 0))
        sheet.paste(self.image, (width, 0))
        return sheet
