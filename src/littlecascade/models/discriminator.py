"""The patch discriminator of Stage A's training: which parts of a picture look decoded."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from littlecascade.models.config import DiscriminatorConfig


class Discriminator(nn.Module):
    """Strided 3x3 convolutions under spectral norm, with instance norm and leaky ReLU, then one logit per patch.

    The width doubles with each of the first convolutions until it is the config's, at the fourth or at the last.
    Its weights are drawn from torch's global generator.
    In training mode every forward pass also advances the estimate of the spectral norms by one power iteration.
    """

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        doublings = min(config.depth - 1, 3)
        widths = [config.width >> max(doublings - index, 0) for index in range(config.depth)]
        layers: list[nn.Module] = [_strided(config.in_channels, widths[0]), nn.LeakyReLU(0.2)]
        for narrow, wide in pairwise(widths):
            layers += [_strided(narrow, wide), nn.InstanceNorm2d(wide), nn.LeakyReLU(0.2)]
        self.encoder = nn.Sequential(*layers)
        self.shuffle = nn.Conv2d(config.width, 1, kernel_size=1)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: (B, 3, H, W) in [0, 1], sides over 2**depth. Returns logits (B, 1, H / 2**depth, W / 2**depth).

        Sides are rounded up; a positive logit means real. The official network ends in a sigmoid; losses on
        logits are better conditioned.
        """
        return self.shuffle(self.encoder(pixels))


def _strided(in_channels: int, out_channels: int) -> nn.Module:
    return spectral_norm(nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=2, padding=1))
