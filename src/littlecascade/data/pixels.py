"""Pictures to tensors and back."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB picture as (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy()).float() / 255


def to_image(pixels: Tensor) -> Image.Image:
    """(3, H, W) in [0, 1] as an RGB picture; values outside are clipped."""
    values = (pixels.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).contiguous().numpy())
