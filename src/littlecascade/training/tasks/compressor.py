"""Training the semantic compressor with the previewer, as an autoencoder whose middle is 16 channels at f32."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image

from littlecascade.checkpoint.networks import save_network
from littlecascade.models.compressor import Compressor
from littlecascade.models.previewer import Previewer
from littlecascade.presets import find_preset
from littlecascade.training.config import CompressorRun
from littlecascade.training.draws import Draws
from littlecascade.training.stock import Stock
from littlecascade.training.task import Batch, Loss, Phase, Task
from littlecascade.training.tasks.common import grid, psnr

PREVIEWS = 16


class CompressorTask(Task):
    """The latents get a little noise on their way to the previewer, so that what is close in them looks alike."""

    def __init__(self, config: CompressorRun, stock: Stock) -> None:
        self.config, self.device = config, stock.device
        preset = find_preset(config.model_version)
        self.data = stock.data(config)
        self.feed = self.data.feed
        path = config.effnet_checkpoint_path
        built = stock.network_config("compressor", preset.compressor, path)
        self.compressor: Compressor = stock.trainable("compressor", built, config, path)
        path = config.previewer_checkpoint_path
        built = stock.network_config("previewer", preset.previewer, path)
        self.previewer: Previewer = stock.trainable("previewer", built, config, path)
        self.phases = [Phase("compressor", {"compressor": self.compressor, "previewer": self.previewer})]

    @property
    def broken(self) -> Sequence[str]:
        return self.data.broken

    def prepare(self, raw: Any, draws: Draws) -> Batch:
        return {"pixels": self.data.pictures(raw)}

    def loss(self, phase: str, batch: Batch, draws: Draws, progress: float) -> Loss:
        latents = self.compressor(batch["pixels"])
        noise = draws.normal(*latents.shape[1:]) * self.config.latent_noise
        decoded = self.previewer(latents + noise.to(latents)).float()
        # a previewer with fewer upscales than the compressor's f32 shows a smaller picture
        target = F.interpolate(batch["pixels"], decoded.shape[-2:], mode="area")
        value = F.mse_loss(decoded, target)
        if self.config.l1_weight:
            value = value + self.config.l1_weight * F.l1_loss(decoded, target)
        return Loss(value, {"psnr": psnr(target, decoded.detach())})

    def preview(self) -> Image.Image | None:
        """Pictures above what the previewer makes of their latents."""
        originals = self.data.pictures(self.data.examples(PREVIEWS)).to(self.device)
        decoded = self.previewer(self.compressor(originals)).float()
        return grid([list(F.interpolate(originals, decoded.shape[-2:], mode="area")), list(decoded)])

    def export(self, folder: Path) -> None:
        save_network("compressor", self.compressor, folder / "effnet_encoder.safetensors", dtype=torch.float16)
        save_network("previewer", self.previewer, folder / "previewer.safetensors", dtype=torch.float16)
