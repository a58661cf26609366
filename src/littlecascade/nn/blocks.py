"""The blocks of the trunk that Stage B and Stage C share, and the layers they are made of.

Maps are channels-last, (B, H, W, C): norms, GRN and linears work on the last axis as it lies in memory, and a
convolution sees the same memory as a channels-last (B, C, H, W) tensor, without a copy.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

from littlecascade.nn.attention import SpatialAttention


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """x: (B, H, W, C) resampled bilinearly, corners on corners, in float32. Returns (B, *size, C) in x's dtype."""
    if x.shape[1:3] == size:
        return x
    resized = F.interpolate(x.permute(0, 3, 1, 2).float(), size, mode="bilinear", align_corners=True)
    return resized.permute(0, 2, 3, 1).to(x.dtype)


class Depthwise(nn.Conv2d):
    """A convolution of each channel by itself: (B, H, W, C), and so is the result."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__(width, width, kernel, padding=kernel // 2, groups=width)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class Downscale(nn.Conv2d):
    """A 2x2 convolution with stride 2: (B, H, W, C) to (B, H // 2, W // 2, C').

    Run as a linear layer over squares of four positions: on a CPU in bfloat16 half the time of the convolution.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=2, stride=2)

    def forward(self, input: Tensor) -> Tensor:
        height, width = (side // 2 for side in input.shape[1:3])
        squares = input[:, : 2 * height, : 2 * width].unflatten(2, (width, 2)).unflatten(1, (height, 2))
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(squares.transpose(2, 3).flatten(3), weight, self.bias)


class Upscale(nn.ConvTranspose2d):
    """A 2x2 transposed convolution with stride 2: (B, H, W, C) to (B, 2 * H, 2 * W, C'). Run as a linear layer, too."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=2, stride=2)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        weight = self.weight.permute(2, 3, 1, 0).flatten(0, 2)
        bias = None if self.bias is None else self.bias.repeat(4)
        squares = F.linear(input, weight, bias).unflatten(-1, (2, 2, self.out_channels))
        return squares.transpose(2, 3).flatten(3, 4).flatten(1, 2)


class Pointwise(nn.Conv2d):
    """A 1x1 convolution, run as a linear layer over the last axis: (..., C) to (..., C')."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=1)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight.flatten(1), self.bias)


class Norm(nn.LayerNorm):
    """Layer normalisation over the last axis, without scale and shift, times `gain`."""

    gain = 1.0

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6, elementwise_affine=False)

    def forward(self, input: Tensor) -> Tensor:
        normed = super().forward(input)
        return normed if self.gain == 1 else normed * self.gain

    def reads_divided(self, scale: float) -> None:
        """From now on what it reads is `scale` times smaller, and the result as before."""
        self.eps /= scale**2


class Patchify(nn.Module):
    """(B, C, H, W) to (B, ceil(H / patch), ceil(W / patch), C * patch**2), sides padded by repeating the edge."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, x: Tensor) -> Tensor:
        bottom, right = -x.shape[2] % self.patch, -x.shape[3] % self.patch
        if bottom or right:
            x = F.pad(x, (0, right, 0, bottom), mode="replicate")
        return F.pixel_unshuffle(x, self.patch).permute(0, 2, 3, 1)


class Unpatchify(nn.Module):
    """(B, h, w, C * patch**2) to (B, C, h * patch, w * patch)."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(x.permute(0, 3, 1, 2), self.patch)


class Resample(nn.Module):
    """Multiplies the sides by `factor`, bilinearly."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, H, W, C) to (B, H * factor, W * factor, C), rounded down but not below 1."""
        height, width = (max(1, int(side * self.factor)) for side in x.shape[1:3])
        return resize(x, (height, width))


class SwitchDown(nn.Module):
    """The change to a coarser level with a `switch_level`: a 1x1 convolution, then half the sides if switched on."""

    def __init__(self, in_channels: int, out_channels: int, switched: bool) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            Pointwise(in_channels, out_channels), Resample(0.5) if switched else nn.Identity()
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class SwitchUp(nn.Module):
    """The change to a finer level with a `switch_level`: twice the sides if switched on, then a 1x1 convolution."""

    def __init__(self, in_channels: int, out_channels: int, switched: bool) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            Resample(2) if switched else nn.Identity(), Pointwise(in_channels, out_channels)
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class _SquareSum(torch.autograd.Function):
    """Sum of squares over space in float32: (B, H, W, C) to (B, 1, 1, C).

    Keeps x for the backward pass, not a float32 copy of it. `torch.linalg.vector_norm` would do, but on a CPU it is 17
    to 27 times slower over axes that are not the last (x86, torch 2.13). There the squares are made in parts that stay
    in the cache, which on a map of 128 x 128 x 1280 takes half the time or less.
    """

    PART = 1 << 19  # numbers

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        rows = x.flatten(1, 2)
        at_once = max(1, _SquareSum.PART // (len(x) * x.shape[-1])) if x.device.type == "cpu" else rows.shape[1]
        parts = [part.to(torch.float32, copy=True).square_().sum(dim=1) for part in rows.split(at_once, dim=1)]
        return torch.stack(parts).sum(dim=0)[:, None, None]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return (x * (2 * gradient)).to(x.dtype)


class GlobalResponseNorm(nn.Module):
    """Scales each channel by its L2 norm over space, relative to the mean of all channels' norms, and adds the input.

    ConvNeXt V2 (Woo et al. 2023), equations 1 to 4. The sum of squares is taken in float32: in float16 it overflows.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, width))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, H, W, C), and so is the result."""
        norm = _SquareSum.apply(x).clamp(min=1e-20).sqrt()  # the clamp: no infinite gradient at 0
        relative = norm / (norm.mean(dim=-1, keepdim=True) + 1e-6)
        return torch.addcmul(self.beta, x, 1 + self.gamma * relative.to(x.dtype))


Factor = float | Tensor
"""What a parameter is multiplied by; a tensor has as many axes as the parameter."""


class Block(nn.Module):
    """What the trunk is stacked from: `block(x, time=..., text=..., skip=...)` with x: (B, H, W, C) gives the same
    shape, and each kind reads what it needs of

    time: (B, time_width * (1 + len(time_conditions))), text: tokens (B, M, cond_width), skip: (B, H, W, C) or None.
    """

    controllable = False  # whether a ControlNet's residual may be added to its input
    streams = True  # its weights may be brought in for the time of its call

    def forward(self, x: Tensor, *, time: Tensor, text: Tensor, skip: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    def initialise(self, gain: float, generator: Generator | None) -> None:
        """Change what differs from the trunk's general initialisation. gain: for what is added to the stream."""

    def divide_stream(self, scale: float) -> dict[str, Factor]:
        """Expect x and skip to be `scale` times smaller, and make the result so. See `Trunk.divide_stream`."""
        raise NotImplementedError


class ResBlock(Block):
    """A ConvNeXt V2 block; a skip connection from the way down enters after the norm, so it is read raw."""

    controllable = True
    divisor = 1.0  # of the stream

    def __init__(self, width: int, skip_width: int = 0, kernel: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        self.skip_width = skip_width
        self.depthwise = Depthwise(width, kernel)
        self.norm = Norm(width)
        self.channelwise = nn.Sequential(
            nn.Linear(width + skip_width, 4 * width),
            nn.GELU(),
            GlobalResponseNorm(4 * width),
            nn.Dropout(dropout),
            nn.Linear(4 * width, width),
        )

    @property
    def wide(self) -> bool:
        """Whether `channelwise` has float32 weights and is computed so: a skip is read raw, however large it is."""
        return self.skip_width > 0 and self.divisor != 1

    def forward(self, x: Tensor, *, time: Tensor, text: Tensor, skip: Tensor | None = None) -> Tensor:
        hidden = self.norm(self.depthwise(x))
        if skip is not None:
            hidden = torch.cat([hidden, skip], dim=-1)
        if self.wide:
            return x + self.channelwise(hidden.float()).to(x.dtype)
        return x + self.channelwise(hidden)

    def initialise(self, gain: float, generator: Generator | None) -> None:
        nn.init.xavier_uniform_(self.get_parameter("channelwise.4.weight"), gain, generator)

    def divide_stream(self, scale: float) -> dict[str, Factor]:
        self.norm.reads_divided(scale)
        self.divisor *= scale
        columns = torch.ones(1, self.norm.normalized_shape[0] + self.skip_width)
        columns[:, self.norm.normalized_shape[0] :] = scale
        return {
            "depthwise.bias": 1 / scale,
            "channelwise.0.weight": columns,
            "channelwise.4.weight": 1 / scale,
            "channelwise.4.bias": 1 / scale,
        }


class TimestepBlock(Block):
    """A scale and a shift per channel, summed over the time and each further scalar condition."""

    def __init__(self, width: int, time_width: int, conditions: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.width = width
        self.mapper_names = ("mapper", *(f"mapper_{name}" for name in conditions))
        for name in self.mapper_names:
            self.add_module(name, nn.Linear(time_width, 2 * width))

    def forward(self, x: Tensor, *, time: Tensor, text: Tensor, skip: Tensor | None = None) -> Tensor:
        parts = time.chunk(len(self.mapper_names), dim=1)
        mapped = [self.get_submodule(name)(part) for name, part in zip(self.mapper_names, parts, strict=True)]
        scale, shift = torch.stack(mapped).sum(dim=0)[:, None, None].chunk(2, dim=-1)
        return torch.addcmul(shift, x, 1 + scale)

    def initialise(self, gain: float, generator: Generator | None) -> None:
        for name in self.mapper_names:
            nn.init.zeros_(self.get_parameter(f"{name}.weight"))

    def divide_stream(self, scale: float) -> dict[str, Factor]:
        halves = torch.ones(self.width * 2)
        halves[self.width :] = 1 / scale  # the shifts
        weights: dict[str, Factor] = {f"{name}.weight": halves[:, None] for name in self.mapper_names}
        return weights | {f"{name}.bias": halves for name in self.mapper_names}


class AttentionBlock(Block):
    """Attention of the map over itself and over the conditioning tokens."""

    def __init__(
        self, width: int, cond_width: int, heads: int, dropout: float = 0.0, self_attention: bool = True
    ) -> None:
        super().__init__()
        self.norm = Norm(width)
        self.attention = SpatialAttention(width, heads, dropout, self_attention)
        self.kv_mapper = nn.Sequential(nn.SiLU(), nn.Linear(cond_width, width))

    def forward(self, x: Tensor, *, time: Tensor, text: Tensor, skip: Tensor | None = None) -> Tensor:
        return x + self.attention(self.norm(x), self.kv_mapper(text))

    def divide_stream(self, scale: float) -> dict[str, Factor]:
        self.norm.reads_divided(scale)
        return {f"attention.attn.out_proj.{name}": 1 / scale for name in ("weight", "bias")}
