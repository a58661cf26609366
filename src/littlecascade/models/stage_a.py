"""Stage A: the VQGAN between pixels and the latents that Stage B draws, at a quarter of the side.

Architecture of Paella (Rampas, Pernias and Aubreville, 2022). Parameters bear the official release's names.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from littlecascade.errors import InputError
from littlecascade.models.config import StageAConfig
from littlecascade.nn.initialise import draw_default
from littlecascade.nn.quantize import Quantised, VectorQuantizer

_EPS = 1e-6


class ResBlock(nn.Module):
    """x + g2 * depthwise(modulated norm of x), then x + g5 * channelwise(modulated norm of x), for x: (B, C, H, W).

    The six `gammas` are scalars: scale and shift after each norm (g0, g1 and g3, g4), and each branch's gain (g2, g5).
    They are multiplied into the weights next to them rather than into the activations, which are far larger.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Sequential(nn.ReplicationPad2d(1), nn.Conv2d(width, width, kernel_size=3, groups=width))
        self.channelwise = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.gammas = nn.Parameter(torch.zeros(6))

    def initialise(self, gain: float, generator: Generator | None) -> None:
        """Xavier-uniform weights, no bias, `gain` for both branches."""
        for parameter in (*self.depthwise.parameters(), *self.channelwise.parameters()):
            if parameter.ndim == 1:
                nn.init.zeros_(parameter)
            else:
                nn.init.xavier_uniform_(parameter, generator=generator)
        with torch.no_grad():
            self.gammas.copy_(torch.tensor([0.0, 0.0, gain, 0.0, 0.0, gain]))

    def forward(self, x: Tensor) -> Tensor:
        scale1, shift1, gain1, scale2, shift2, gain2 = self.gammas.unbind()
        weight, bias = self.depthwise[1].parameters()
        y = self.depthwise[0](_modulated_norm(x.permute(0, 2, 3, 1), scale1, shift1).permute(0, 3, 1, 2))
        x = x + F.conv2d(y, weight * gain1, bias * gain1, groups=x.shape[1])
        weight, bias = self.channelwise[2].parameters()
        y = self.channelwise[:2](_modulated_norm(x.permute(0, 2, 3, 1), scale2, shift2))
        return x + F.linear(y, weight * gain2, bias * gain2).permute(0, 3, 1, 2)


def _modulated_norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Layer norm of x: (B, H, W, C) over C, times 1 + scale, plus shift; both scalars."""
    width = x.shape[-1]
    return F.layer_norm(x, (width,), (1 + scale).expand(width), shift.expand(width), _EPS)


class StageA(nn.Module):
    """Encoder, quantiser and decoder. Pixels are in [0, 1]; decoded ones may lie a little outside.

    Latents are the encoder's batch-normalised output over the config's `scale`; Stage B works on unquantised ones.
    """

    def __init__(self, config: StageAConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.width >> level for level in reversed(range(config.levels))]  # finest level first
        latent = config.latent_channels

        self.in_block = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(3 * 4, widths[0], kernel_size=1))
        down: list[nn.Module] = [ResBlock(widths[0])]
        for finer, coarser in pairwise(widths):
            down += [nn.Conv2d(finer, coarser, kernel_size=4, stride=2, padding=1), ResBlock(coarser)]
        down.append(nn.Sequential(nn.Conv2d(widths[-1], latent, kernel_size=1, bias=False), nn.BatchNorm2d(latent)))
        self.down_blocks = nn.Sequential(*down)

        self.vquantizer = VectorQuantizer(config.codebook_size, latent)

        up: list[nn.Module] = [nn.Sequential(nn.Conv2d(latent, widths[-1], kernel_size=1))]
        up += [ResBlock(widths[-1]) for _ in range(config.bottleneck_depth)]
        for coarser, finer in pairwise(reversed(widths)):
            up += [nn.ConvTranspose2d(coarser, finer, kernel_size=4, stride=2, padding=1), ResBlock(finer)]
        self.up_blocks = nn.Sequential(*up)
        self.out_block = nn.Sequential(nn.Conv2d(widths[0], 3 * 4, kernel_size=1), nn.PixelShuffle(2))

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, and so of the latents and pixels that come out."""
        return next(self.parameters()).dtype

    def initialise(self, generator: Generator | None = None, *, gain: float = 0.5) -> None:
        """Draw weights to train from scratch, the same ones from the same `generator`.

        gain: where every residual block's two branch gains start. The official training starts at 0, where blocks do
        nothing; 0.5 learns faster.
        """
        draw_default(self, generator)
        self.vquantizer.initialise(generator)
        for block in (*self.down_blocks, *self.up_blocks):
            if isinstance(block, ResBlock):
                block.initialise(gain, generator)

    def encode(self, pixels: Tensor) -> Tensor:
        """pixels: (B, 3, H, W) in [0, 1]. Returns latents (B, latent_channels, H / 2**levels, W / 2**levels).

        Raises `InputError` for a side that is no multiple of 2**levels.
        """
        factor = 2**self.config.levels
        height, width = pixels.shape[-2:]
        if height % factor or width % factor:
            raise InputError(f"Stage A takes pictures whose sides are multiples of {factor}, not {width}x{height}.")
        x = pixels.to(self.dtype, memory_format=torch.channels_last)
        return self.down_blocks(self.in_block(x)) / self.config.scale

    def quantise(self, latents: Tensor) -> Quantised:
        """Replace each vector of latents: (B, latent_channels, h, w) by the nearest code, both before the scale.

        The vectors that are returned are latents again; the losses are those before the scale.
        """
        quantised = self.vquantizer(latents * self.config.scale)
        return quantised._replace(vectors=quantised.vectors / self.config.scale)

    def decode(self, latents: Tensor) -> Tensor:
        """latents: (B, latent_channels, h, w), quantised or not. Returns pixels (B, 3, H, W) as `encode` takes."""
        x = latents.to(self.dtype, memory_format=torch.channels_last) * self.config.scale
        return self.out_block(self.up_blocks(x))

    def forward(
        self, pixels: Tensor, *, quantise: bool | Tensor = True, noise: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Encode and decode, for training.

        pixels: (B, 3, H, W) in [0, 1]. quantise: whether the decoder gets quantised latents, for all pictures or, as a
        bool tensor (B,), for each; it should learn both, since Stage B's latents are never quantised.
        noise: (B, latent_channels, h, w), added to the unquantised latents that the decoder gets.
        Returns pixels of the same shape, and the losses `codebook` and `commitment` of all latents, scalars in float32.
        """
        latents = self.encode(pixels)
        quantised = self.quantise(latents)
        mask = torch.as_tensor(quantise, device=latents.device).view(-1, 1, 1, 1)
        smooth = latents if noise is None else latents + noise.to(latents.dtype)
        decoded = self.decode(torch.where(mask, quantised.vectors, smooth))
        return decoded, {"codebook": quantised.codebook_loss, "commitment": quantised.commitment_loss}

    reconstruct = forward
