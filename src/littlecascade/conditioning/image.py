"""Pictures to the one vector by which the cascade is conditioned on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from littlecascade.checkpoint import assign, files
from littlecascade.conditioning import folder as folders
from littlecascade.conditioning.clip import VisionConfig, VisionTower
from littlecascade.errors import InputError

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Mean and deviation of red, green and blue over CLIP's training pictures (arXiv:2103.00020)."""


def fit_square(pixels: Tensor, size: int) -> Tensor:
    """Resizes `(B, C, H, W)` so that the shorter side has `size` pixels, and cuts out the middle `(B, C, size, size)`.

    The resampling is bicubic with antialiasing, clamped to [0, 1]. Where a margin is odd its larger part lies at the
    bottom and at the right.
    """
    height, width = pixels.shape[-2:]
    shorter = min(height, width)
    height, width = size * height // shorter, size * width // shorter
    if shorter != size:
        pixels = F.interpolate(pixels.float(), (height, width), mode="bicubic", antialias=True).clamp(0, 1)
    top, left = (height - size) // 2, (width - size) // 2
    return pixels[..., top : top + size, left : left + size]


class ImageEncoder:
    """A CLIP vision tower with the preparation of pictures that it was trained with."""

    def __init__(self, tower: VisionTower, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> None:
        self.tower = tower
        self.mean = tuple(mean)
        self.std = tuple(std)

    @classmethod
    def load(cls, folder: str | Path, dtype: torch.dtype | None = None, device: str | torch.device = "cpu") -> Self:
        """Reads a folder that transformers saved, of a vision tower or of a whole CLIP model.

        Mean and deviation are those of `preprocessor_config.json` where there is one, else CLIP's. `dtype` None keeps
        the precision of the file.

        Raises:
            InputError: a file is missing or can't be read, or weights and configuration do not fit.
        """
        folder = Path(folder)
        config = VisionConfig.from_transformers(folders.read_json(folder / folders.CONFIG))
        tensors = folders.read_tensors(folder, ("vision_model.", "visual_projection."))
        tower = assign.build(lambda: VisionTower(config), tensors, dtype=dtype, device=device, source=str(folder))
        prepared = folder / "preprocessor_config.json"
        settings = folders.read_json(prepared) if prepared.is_file() else {}
        return cls(tower, settings.get("image_mean", MEAN), settings.get("image_std", STD))

    def save(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Writes a folder that `load` and transformers' CLIPVisionModelWithProjection and CLIPImageProcessor read.

        `dtype` None stores the weights in the precision that they have.
        """
        folder = Path(folder)
        size = self.tower.config.image_size
        settings = {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": size},
            "crop_size": {"height": size, "width": size},
            "image_mean": self.mean,
            "image_std": self.std,
        }
        folders.write_json(folder / folders.CONFIG, self.tower.config.to_transformers())
        folders.write_json(folder / "preprocessor_config.json", settings)
        tensors = {name: tensor.to(dtype) for name, tensor in self.tower.state_dict().items()}
        files.save(folder / folders.WEIGHTS, tensors, {"format": "pt"})

    def preprocess(self, pixels: Tensor) -> Tensor:
        """Pictures `(B, 3, H, W)` in [0, 1] of any size as the tower reads them: square, and normalised.

        Raises:
            InputError: the tensor has another shape.
        """
        if pixels.ndim != 4 or pixels.shape[1] != 3:
            raise InputError(f"Pictures come as (B, 3, H, W) in [0, 1]; this tensor is {tuple(pixels.shape)}.")
        square = fit_square(pixels, self.tower.config.image_size)
        mean, std = (torch.tensor(values, device=pixels.device).view(3, 1, 1) for values in (self.mean, self.std))
        return (square - mean) / std

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Embeds pictures `(B, 3, H, W)` in [0, 1], of any size, as `(B, 1, projection)`."""
        weight = self.tower.visual_projection.weight
        return self.tower(self.preprocess(pixels.to(weight.device)).to(weight.dtype)).unsqueeze(1)
