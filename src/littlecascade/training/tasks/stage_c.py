"""Training Stage C: captions, and now and then a picture's embedding, to semantic latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from littlecascade.models.previewer import Previewer
from littlecascade.models.stage_c import StageC
from littlecascade.pipelines.sampling import Settings
from littlecascade.presets import find_preset
from littlecascade.training.config import StageCRun
from littlecascade.training.draws import Draws
from littlecascade.training.encoders import text_folder_of
from littlecascade.training.stock import Stock
from littlecascade.training.task import Batch, on_device
from littlecascade.training.tasks.common import grid, keep
from littlecascade.training.tasks.diffusion import DiffusionTask

COLUMNS = 8
PIXELS_PER_LATENT = 32
"""Along a side, as the compressor makes them."""


class StageCTask(DiffusionTask):
    """The picture's own embedding is given to a share of the samples, so that pictures can be varied later."""

    network: StageC

    def __init__(self, config: StageCRun, stock: Stock) -> None:
        super().__init__("c", config, stock, find_preset(config.model_version).stage_c)
        self.config = config
        path = config.previewer_checkpoint_path
        self.previewer: Previewer | None = None if path is None else stock.frozen("previewer", path)
        if self.previewer is not None and text_folder_of(config) is not None:
            self.data.prepare_texts(["", *config.validation_prompts])

    def prepare(self, raw: Any, draws: Draws) -> Batch:
        columns = self.data.columns(raw)
        captions, silent = self.data.captions(raw, draws), draws.chance(self.config.text_dropout)
        conditions: dict[str, Tensor] = {}
        if self.config.image_path is not None:
            shown = draws.chance(self.config.image_share)
            silent |= shown & draws.chance(self.config.image_alone)
            conditions["image"] = keep(columns["image"], shown)
        said = ["" if drop else caption for caption, drop in zip(captions, silent.tolist(), strict=True)]
        return {**self.targets(raw, columns["semantic"]), **self.words(said, ~silent, draws), **conditions}

    def words(self, texts: Sequence[str], spoken: Tensor, draws: Draws | None) -> dict[str, Tensor]:
        """What a batch holds of its captions. spoken: (B,), whether one is more than the empty prompt."""
        hidden, pooled = self.data.embed(texts)
        if draws is not None and self.config.text_noise:
            hidden, pooled = (self._blurred(values, spoken, draws) for values in (hidden, pooled))
        return {"text": hidden, "pooled": pooled}

    def _blurred(self, values: Tensor, spoken: Tensor, draws: Draws) -> Tensor:
        """Text embeddings (B, T, C), half of those that are `spoken` with noise, so that near ones come to mean alike.

        Its strength is even in [0, text_noise], as a multiple of the embedding's own deviation.
        """
        strength = self.config.text_noise * draws.uniform(1, 1) * (spoken & draws.chance(0.5)).view(-1, 1, 1)
        return values + draws.normal(*values.shape[1:]) * strength * values.std((1, 2), keepdim=True)

    def conditions(self, batch: Batch) -> dict[str, Tensor]:
        return self.network.encode_conditions(batch["text"], batch["pooled"], batch.get("image"))

    def preview(self) -> Image.Image | None:
        """What is drawn for the validation prompts, as the previewer shows it; nothing without the one or the other."""
        prompts = self.config.validation_prompts
        if self.previewer is None or not prompts:
            return None
        pictures = list(self.previewer(self.draw_prompts(prompts)))
        return grid([pictures[start : start + COLUMNS] for start in range(0, len(pictures), COLUMNS)])

    def draw_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Latents (B, C, h, w) of the run's size for prompts that have been prepared, picture i from seed i."""
        conditions, empty = (self._prompted(texts) for texts in (prompts, [""] * len(prompts)))
        side = max(1, self.config.image_size // PIXELS_PER_LATENT)
        shape = (len(prompts), self.network.config.trunk.out_channels, side, side)
        return self.draw(shape, conditions, empty, Settings("dpmpp_2m", 16, guidance=3.0))

    def _prompted(self, texts: Sequence[str]) -> dict[str, Tensor]:
        words = self.words(texts, torch.ones(len(texts), dtype=torch.bool), None)
        return self.conditions(on_device(words, self.device))
