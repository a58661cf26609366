"""Training Stage A: a VQGAN on random crops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from littlecascade.checkpoint.networks import save_network
from littlecascade.memory.precision import cast, choose_dtype
from littlecascade.models.config import DiscriminatorConfig
from littlecascade.models.discriminator import Discriminator
from littlecascade.presets import find_preset
from littlecascade.training.config import StageARun
from littlecascade.training.draws import Draws
from littlecascade.training.task import Batch, Loss, Phase, Task
from littlecascade.training.tasks.common import grid, open_pixels, psnr, trainable

PREVIEWS = 8


class StageATask(Task):
    """Autoencoding with a codebook (van den Oord et al. 2017), late in the run also against a discriminator.

    The decoder sees unquantised latents in part of the samples, since Stage B will never give it quantised ones.
    The adversarial part is the hinge loss (Lim and Ye 2017), its weight fixed.
    """

    def __init__(self, config: StageARun) -> None:
        self.config = config
        preset = find_preset(config.model_version)
        self.pixels = open_pixels(config)
        self.network = trainable("stage_a", preset.stage_a, config, config.stage_a_checkpoint_path)
        self.phases = [Phase("autoencoder", {"stage_a": self.network})]
        self.discriminator: nn.Module | None = None
        if config.adversarial_weight:
            torch.manual_seed(config.seed)
            small = DiscriminatorConfig(width=preset.stage_a.width, depth=3)
            self.discriminator = cast(Discriminator(small), choose_dtype(config.precision, "cpu"))
            modules = {"discriminator": self.discriminator}
            self.phases.append(Phase("discriminator", modules, start=config.adversarial_start))

    @property
    def count(self) -> int:
        return len(self.pixels)

    def fetch(self, indices: Sequence[int], draws: Draws) -> Batch:
        crop, span = self.config.crop, self.config.image_size - self.config.crop + 1
        tops, lefts = draws.integers(span), draws.integers(span)
        places = zip(indices, tops, lefts, strict=True)
        crops = [self.pixels.pixels[at, :, top : top + crop, left : left + crop] for at, top, left in places]
        return {"pixels": torch.stack([torch.from_numpy(cut.copy()) for cut in crops]).float() / 255}

    def loss(self, phase: str, batch: Batch, draws: Draws, progress: float) -> Loss:
        pixels: Tensor = batch["pixels"]
        quantise = draws.chance(self.config.quantised_share)
        if phase == "discriminator":
            with torch.no_grad():
                fake = self.network(pixels, quantise=quantise)[0]
            return self._judge(pixels, fake)
        decoded, losses = self.network(pixels, quantise=quantise)
        decoded = decoded.float()
        error = F.mse_loss(decoded, pixels)
        value = error + losses["codebook"] * CODEBOOK_WEIGHT
        value = value + losses["commitment"] * self.config.commitment_weight * CODEBOOK_WEIGHT
        if self.config.l1_weight:
            value = value + self.config.l1_weight * F.l1_loss(decoded, pixels)
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
        indices = [number * len(self.pixels) // PREVIEWS for number in range(PREVIEWS)]
        originals = self.pixels.batch(indices)
        smooth, quantised = (self.network(originals, quantise=quantise)[0].float() for quantise in (False, True))
        return grid([list(originals), list(smooth), list(quantised)])

    @torch.no_grad()
    def export(self, folder: Path) -> None:
        """Write the weights with the scale that gives the latents unit variance over the data."""
        self.network.eval()
        indices = range(0, len(self.pixels), max(1, len(self.pixels) // 256))
        latents = torch.cat([self.network.encode(self.pixels.batch([at])) for at in indices])
        scale = float(latents.float().std()) * self.network.config.scale
        self.network.config = replace(self.network.config, scale=scale)
        save_network("stage_a", self.network, folder / "stage_a.safetensors", dtype=torch.float16)


CODEBOOK_WEIGHT = 0.1
"""How much the quantiser's losses count beside the mean squared error of pixels in [0, 1], which is far smaller."""
