"""Training Stage A: a VQGAN on random crops."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from littlecascade.checkpoint.networks import save_network
from littlecascade.models.config import DiscriminatorConfig
from littlecascade.models.discriminator import Discriminator
from littlecascade.models.stage_a import StageA
from littlecascade.presets import find_preset
from littlecascade.training.config import StageARun
from littlecascade.training.draws import Draws
from littlecascade.training.stock import Stock
from littlecascade.training.task import Batch, Loss, Phase, Task
from littlecascade.training.tasks.common import grid, psnr

PREVIEWS = 8
MEASURED = 256  # pictures over which the latents' scale is taken
CODEBOOK_WEIGHT = 0.1
"""How much the quantiser's losses count beside the mean squared error of pixels in [0, 1], which is far smaller."""


class StageATask(Task):
    """Autoencoding with a codebook (van den Oord et al. 2017), late in the run also against a discriminator.

    The decoder sees unquantised latents in part of the samples, since Stage B will never give it quantised ones.
    The adversarial part is the hinge loss (Lim and Ye 2017), its weight fixed.
    """

    def __init__(self, config: StageARun, stock: Stock) -> None:
        self.config, self.device = config, stock.device
        preset = find_preset(config.model_version)
        self.data = stock.data(config)
        self.feed = self.data.feed
        path = config.stage_a_checkpoint_path
        built = stock.network_config("stage_a", preset.stage_a, path)
        self.network: StageA = stock.trainable("stage_a", built, config, path)
        self.encoder: StageA | None = None
        if config.decoder_only and path is not None:
            self.encoder = stock.frozen("stage_a", path)
            for part in (self.network.in_block, self.network.down_blocks, self.network.vquantizer):
                part.requires_grad_(False)
        self.phases = [Phase("autoencoder", {"stage_a": self.network})]
        self.discriminator: Discriminator | None = None
        if config.adversarial_weight:
            judge = DiscriminatorConfig(width=built.width, depth=3)
            self.discriminator = stock.fresh(lambda: Discriminator(judge), config)
            modules = {"discriminator": self.discriminator}
            self.phases.append(Phase("discriminator", modules, start=config.adversarial_start))

    @property
    def broken(self) -> Sequence[str]:
        return self.data.broken

    def prepare(self, raw: Any, draws: Draws) -> Batch:
        pixels, crop = self.data.pictures(raw), self.config.crop
        tops, lefts = (draws.integers(side - crop + 1) for side in pixels.shape[-2:])
        places = zip(pixels, tops, lefts, strict=True)
        return {"pixels": torch.stack([one[:, top : top + crop, left : left + crop] for one, top, left in places])}

    def loss(self, phase: str, batch: Batch, draws: Draws, progress: float) -> Loss:
        pixels: Tensor = batch["pixels"]
        quantise = draws.chance(self.config.quantised_share).to(pixels.device)
        if phase == "discriminator":
            with torch.no_grad():
                fake = self._autoencode(pixels, quantise)[0]
            return self._judge(pixels, fake)
        decoded, losses = self._autoencode(pixels, quantise)
        decoded = decoded.float()
        value = F.mse_loss(decoded, pixels)
        if self.encoder is None:
            value = value + losses["codebook"] * CODEBOOK_WEIGHT
            value = value + losses["commitment"] * self.config.commitment_weight * CODEBOOK_WEIGHT
        if self.config.l1_weight:
            value = value + self.config.l1_weight * F.l1_loss(decoded, pixels)
        if self.config.gradient_weight:
            value = value + self.config.gradient_weight * gradient_difference(decoded, pixels)
        if self.discriminator is not None and progress >= self.config.adversarial_start:
            logits = self.discriminator(decoded.to(self.network.dtype)).float()
            value = value - self.config.adversarial_weight * logits.mean()
        smooth = ~quantise
        metrics = {
            "psnr": psnr(pixels[smooth], decoded.detach()[smooth]),
            "psnr_quantised": psnr(pixels[quantise], decoded.detach()[quantise]),
            "codebook": float(losses["codebook"].detach()),
        }
        return Loss(value, metrics)

    def _autoencode(self, pixels: Tensor, quantise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """As the network does; the latents are those that it began with where the decoder alone is trained."""
        if self.encoder is None:
            return self.network(pixels, quantise=quantise)
        with torch.no_grad():
            latents = self.encoder.encode(pixels)
            quantised = self.encoder.quantise(latents)
        given = torch.where(quantise.view(-1, 1, 1, 1), quantised.vectors, latents)
        return self.network.decode(given), {"codebook": quantised.codebook_loss}

    def _judge(self, real: Tensor, fake: Tensor) -> Loss:
        assert self.discriminator is not None
        dtype = self.network.dtype
        on_real = self.discriminator(real.to(dtype)).float()
        on_fake = self.discriminator(fake.to(dtype)).float()
        value = F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()
        accuracy = ((on_real > 0).float().mean() + (on_fake < 0).float().mean()) / 2
        return Loss(value, {"discriminator_accuracy": float(accuracy)})

    def preview(self) -> Image.Image | None:
        """Pictures, their reconstructions, and those from quantised latents."""
        originals = self.data.pictures(self.data.examples(PREVIEWS))
        smooth, quantised = (
            [
                self.network(picture.to(self.device)[None], quantise=quantise)[0][0].float().cpu()
                for picture in originals
            ]
            for quantise in (False, True)
        )  # one at a time: a run that trains on crops need not have room for all of them whole
        return grid([list(originals), smooth, quantised])

    def export(self, folder: Path) -> None:
        """Write the weights with the scale that gives the latents unit variance over the data, if it may change.

        The network is on the CPU by now, as the pictures are.
        """
        if self.encoder is not None:
            save_network("stage_a", self.network, folder / "stage_a.safetensors", dtype=torch.float16)
            return
        pictures = self.data.pictures(self.data.examples(MEASURED))
        latents = torch.cat([self.network.encode(picture.unsqueeze(0)) for picture in pictures])
        scaled = copy(self.network)  # shares the weights
        scaled.config = replace(scaled.config, scale=float(latents.float().std()) * scaled.config.scale)
        save_network("stage_a", scaled, folder / "stage_a.safetensors", dtype=torch.float16)


def gradient_difference(one: Tensor, other: Tensor) -> Tensor:
    """By how much the steps from pixel to pixel differ in size, along both sides: blurred edges cost as missing ones.

    one, other: (B, C, H, W). The loss of Mathieu et al. 2016, equation 6, with alpha 1, as a mean.
    """
    losses = [F.l1_loss(one.diff(dim=side).abs(), other.diff(dim=side).abs()) for side in (-1, -2)]
    return losses[0] + losses[1]
