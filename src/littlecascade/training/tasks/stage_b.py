"""Training Stage B: semantic latents to Stage A's latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from littlecascade.models.stage_a import StageA
from littlecascade.models.stage_b import StageB
from littlecascade.nn.blocks import resize
from littlecascade.pipelines.sampling import Settings
from littlecascade.presets import find_preset
from littlecascade.training.config import StageBRun
from littlecascade.training.draws import Draws
from littlecascade.training.encoders import semantic_scales
from littlecascade.training.stock import Stock
from littlecascade.training.task import Batch, on_device
from littlecascade.training.tasks.common import grid, keep
from littlecascade.training.tasks.diffusion import DiffusionTask

PREVIEWS = 8


class StageBTask(DiffusionTask):
    """Semantic latents are dropped now and then, and may get noise: Stage C's are never quite the compressor's."""

    network: StageB

    def __init__(self, config: StageBRun, stock: Stock) -> None:
        super().__init__("b", config, stock, find_preset(config.model_version).stage_b)
        self.config = config
        self.stage_a: StageA = stock.frozen("stage_a", config.stage_a_checkpoint_path)

    def prepare(self, raw: Any, draws: Draws) -> Batch:
        columns = self.data.columns(raw)
        captions, dropped = self.data.captions(raw, draws), draws.chance(self.config.text_dropout).tolist()
        text = self.data.embed(["" if drop else caption for caption, drop in zip(captions, dropped, strict=True)])
        noise = draws.normal(*columns["semantic"].shape[1:]) * (self.config.effnet_noise * draws.uniform(1, 1, 1))
        kept = ~draws.chance(self.config.effnet_dropout)
        effnet = keep(self._scaled(columns, noise, draws), kept)
        return {**self.targets(raw, columns["stage_a"]), "effnet": effnet, "pooled": text.pooled}

    def _scaled(self, columns: Mapping[str, Tensor], noise: Tensor, draws: Draws) -> Tensor:
        """Semantic latents (B, C, h, w) with noise, of the picture at one of its scales; then of one size for all."""
        names = list(semantic_scales(self.config))
        if len(names) == 1:
            return columns["semantic"] + noise
        patch = self.network.config.trunk.patch
        height, width = (-(-side // patch) for side in columns["stage_a"].shape[-2:])
        picked = [columns[names[pick]][row] for row, pick in enumerate(draws.integers(len(names)))]
        noisy = [own + noise[row, :, : own.shape[1], : own.shape[2]] for row, own in enumerate(picked)]
        return torch.cat([resize(own[None].permute(0, 2, 3, 1), (height, width)) for own in noisy]).permute(0, 3, 1, 2)

    def conditions(self, batch: Batch) -> dict[str, Tensor]:
        height, width = batch["x0"].shape[-2:]
        return self.network.encode_conditions(batch["effnet"], batch["pooled"], size=(height, width))

    def preview(self) -> Image.Image | None:
        """Pictures, Stage A's reconstructions of them, and what is drawn from their semantic latents."""
        raw = self.data.examples(PREVIEWS)
        columns = on_device(self.data.columns(raw), self.device)
        latents = columns["stage_a"]
        conditions = self.conditions({"x0": latents, "effnet": columns["semantic"], "pooled": None})
        drawn = self.draw(latents.shape, conditions, None, Settings("dpmpp_2m", steps=10))
        return grid([list(self.data.pictures(raw)), self._decoded(latents), self._decoded(drawn)])

    def _decoded(self, latents: Tensor) -> list[Tensor]:
        """The pictures of latents (N, C, H, W), made one at a time: Stage A takes far more for each than Stage B."""
        return [self.stage_a.decode(one).squeeze(0).cpu() for one in latents.split(1)]
