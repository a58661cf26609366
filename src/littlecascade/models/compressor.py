"""The semantic compressor: a picture's EfficientNetV2 features as a few channels at a 32nd of the side.

Tan and Le, "EfficientNetV2: Smaller Models and Faster Training" (2021). Parameters bear the names of the official
release, which are torchvision's for the backbone.
"""

from __future__ import annotations

from itertools import count

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from littlecascade.models.config import CompressorConfig, StageSpec
from littlecascade.nn.initialise import draw_default

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


class Compressor(nn.Module):
    """An EfficientNetV2 `backbone`, then `mapper`: a 1x1 convolution and a batch norm without scale and shift.

    in_channels: 3 for pictures; others reuse the backbone for other maps, which are taken as they are.
    stochastic_depth: in training, the probability to leave out a residual branch, which rises linearly from 0 at the
    first block to this after the last (Huang et al., 2016).
    """

    def __init__(self, config: CompressorConfig, *, in_channels: int = 3, stochastic_depth: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.backbone = _backbone(config, in_channels, stochastic_depth)
        self.mapper = nn.Sequential(
            nn.Conv2d(config.head, config.latent_channels, kernel_size=1, bias=False),
            nn.BatchNorm2d(config.latent_channels, affine=False),
        )

    @property
    def dtype(self) -> torch.dtype:
        """Of the convolutions, and so of the latents."""
        return next(self.parameters()).dtype

    def initialise(self, generator: Generator | None = None) -> None:
        """Draw weights to train from scratch, the same ones from the same `generator`.

        He's normal distribution over the fan out for the backbone's convolutions, no bias.
        """
        draw_default(self, generator)
        for name, parameter in self.backbone.named_parameters():
            if parameter.ndim == 4:
                nn.init.kaiming_normal_(parameter, mode="fan_out", generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: (B, 3, H, W) in [0, 1]. Returns latents (B, latent_channels, H / 32, W / 32), sides rounded up."""
        mean, std = (pixels.new_tensor(values).view(3, 1, 1) for values in (_IMAGENET_MEAN, _IMAGENET_STD))
        x = ((pixels - mean) / std).to(self.dtype, memory_format=torch.channels_last)
        return self.mapper(self.backbone(x))


def _backbone(config: CompressorConfig, in_channels: int, stochastic_depth: float) -> nn.Sequential:
    blocks = {"fused": FusedMBConv, "mb": MBConv}
    total, number = sum(stage.depth for stage in config.stages), count()

    def build(stage: StageSpec, index: int) -> nn.Module:
        return blocks[stage.kind](stage, first=index == 0, drop=stochastic_depth * next(number) / total)

    return nn.Sequential(
        ConvNorm(in_channels, config.stem, 3, stride=2),
        *(nn.Sequential(*(build(stage, index) for index in range(stage.depth))) for stage in config.stages),
        ConvNorm(config.stages[-1].out_channels, config.head, 1),
    )


class ConvNorm(nn.Sequential):
    """Convolution without bias, batch norm and, unless told otherwise, SiLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        activate: bool = True,
    ) -> None:
        padding = (kernel - 1) // 2
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False),
            nn.BatchNorm2d(out_channels, eps=1e-3),
            *([nn.SiLU()] if activate else []),
        )


class SqueezeExcitation(nn.Module):
    """Each channel times a gate that is computed from all channels' spatial means."""

    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(width, squeezed, kernel_size=1)
        self.fc2 = nn.Conv2d(squeezed, width, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc2(F.silu(self.fc1(x.mean((2, 3), keepdim=True)))).sigmoid()


class _Residual(nn.Module):
    """`block`, with the input added where the shapes allow it. drop: see `Compressor.stochastic_depth`."""

    def __init__(self, block: nn.Sequential, *, add: bool, drop: float) -> None:
        super().__init__()
        self.block = block
        self.add, self.drop = add, drop

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(x)
        if self.training and self.drop:
            kept = torch.rand(len(y), 1, 1, 1, device=y.device) >= self.drop
            y = y * (kept / (1 - self.drop)).to(y.dtype)
        return x + y if self.add else y


class FusedMBConv(_Residual):
    """A kxk convolution that expands, then a 1x1 one that projects; one single convolution where nothing expands."""

    def __init__(self, stage: StageSpec, *, first: bool, drop: float) -> None:
        width, out, stride = _geometry(stage, first)
        hidden = width * stage.expand
        layers = (
            [ConvNorm(width, out, stage.kernel, stride=stride)]
            if hidden == width
            else [ConvNorm(width, hidden, stage.kernel, stride=stride), ConvNorm(hidden, out, 1, activate=False)]
        )
        super().__init__(nn.Sequential(*layers), add=stride == 1 and width == out, drop=drop)


class MBConv(_Residual):
    """A 1x1 convolution that expands, a depthwise one, squeeze and excitation, and a 1x1 one that projects."""

    def __init__(self, stage: StageSpec, *, first: bool, drop: float) -> None:
        width, out, stride = _geometry(stage, first)
        hidden = width * stage.expand
        expansion = [ConvNorm(width, hidden, 1)] if hidden != width else []
        layers = [
            *expansion,
            ConvNorm(hidden, hidden, stage.kernel, stride=stride, groups=hidden),
            SqueezeExcitation(hidden, max(1, width // 4)),
            ConvNorm(hidden, out, 1, activate=False),
        ]
        super().__init__(nn.Sequential(*layers), add=stride == 1 and width == out, drop=drop)


def _geometry(stage: StageSpec, first: bool) -> tuple[int, int, int]:
    """Input channels, output channels and stride of a stage's first or later block."""
    if first:
        return stage.in_channels, stage.out_channels, stage.stride
    return stage.out_channels, stage.out_channels, 1
