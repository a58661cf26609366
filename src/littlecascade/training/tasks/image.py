"""Training the image tower to put a picture where the text tower puts its caption (Radford et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from littlecascade.conditioning.clip import VisionTower
from littlecascade.conditioning.image import ImageEncoder
from littlecascade.errors import InputError
from littlecascade.presets import find_preset
from littlecascade.training.config import ImageRun
from littlecascade.training.draws import Draws
from littlecascade.training.stock import Stock
from littlecascade.training.task import Batch, Loss, Phase, Task


class ImageTask(Task):
    """The text tower is frozen, its embeddings cached; the contrast runs both ways over the batch."""

    def __init__(self, config: ImageRun, stock: Stock) -> None:
        self.config, self.device = config, stock.device
        preset = find_preset(config.model_version)
        if preset.image.projection != preset.text.projection:
            raise InputError(
                f"The image tower of {config.model_version} can't be trained: it gives {preset.image.projection} "
                f"features and the text tower that teaches it {preset.text.projection}. Set model_version to tiny, "
                "whose towers give as many."
            )
        self.data = stock.data(config)
        self.feed = self.data.feed
        self.dtype = stock.dtype(config)
        self.tower = stock.fresh(lambda: VisionTower(preset.image), config)
        self.encoder = ImageEncoder(self.tower)
        self.phases = [Phase("image", {"image": self.tower})]

    @property
    def broken(self) -> Sequence[str]:
        return self.data.broken

    def prepare(self, raw: Any, draws: Draws) -> Batch:
        text = self.data.embed(self.data.captions(raw, draws))
        return {"pixels": self.data.pictures(raw), "text": text.pooled[:, 0]}

    def loss(self, phase: str, batch: Batch, draws: Draws, progress: float) -> Loss:
        own = F.normalize(self.tower(self.encoder.preprocess(batch["pixels"]).to(self.dtype)).float(), dim=-1)
        text = F.normalize(batch["text"], dim=-1)
        similarity = own @ text.T
        # two captions of a batch may be the same: all their pictures are right answers
        same = (text @ text.T > 0.999).float()
        target = same / same.sum(1, keepdim=True)
        logits = similarity / self.config.temperature
        contrast = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        found = same.gather(1, similarity.argmax(1, keepdim=True)).mean()
        distance = 1 - similarity.diagonal().mean()
        return Loss(contrast + distance, {"cosine": float(1 - distance.detach()), "accuracy": float(found)})

    def preview(self) -> None:
        """There is nothing to look at."""

    def export(self, folder: Path) -> None:
        self.encoder.save(folder, torch.float16)
