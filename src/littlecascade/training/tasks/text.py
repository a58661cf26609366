"""Training the text tower to put a text where a sentence encoder, its teacher, puts it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from littlecascade.conditioning.clip import TextTower
from littlecascade.conditioning.text import TextEncoder
from littlecascade.presets import find_preset
from littlecascade.training.config import TextRun
from littlecascade.training.draws import Draws
from littlecascade.training.feeds import IndexFeed
from littlecascade.training.stock import Stock
from littlecascade.training.task import Batch, Loss, Phase, Task


class TextTask(Task):
    """The teacher's file holds `embeddings` (N, P), and its texts are in `texts.txt` beside it, one a line.

    The loss is the cosine distance to the teacher's embedding plus a contrast with the other texts of the batch
    (InfoNCE, van den Oord et al. 2018), which keeps apart what the distance alone would leave close.
    """

    def __init__(self, config: TextRun, stock: Stock) -> None:
        self.config, self.device = config, stock.device
        preset = find_preset(config.model_version)
        self.tokenizer, self.embeddings, self.ids, self.mask = stock.lessons(config)
        self.tower = stock.fresh(lambda: TextTower(preset.text), config)
        self.feed = IndexFeed([range(len(self.ids))], config.micro_batch, config.seed)
        self.phases = [Phase("text", {"text": self.tower})]

    def prepare(self, raw: Sequence[int], draws: Draws) -> Batch:
        rows = torch.tensor(raw)
        return {"ids": self.ids[rows], "mask": self.mask[rows], "teacher": self.embeddings[rows].float()}

    def loss(self, phase: str, batch: Batch, draws: Draws, progress: float) -> Loss:
        own = F.normalize(self.tower(batch["ids"], batch["mask"]).pooled.float(), dim=-1)
        teacher = F.normalize(batch["teacher"], dim=-1)
        similarity: Tensor = own @ teacher.T
        distance = 1 - similarity.diagonal().mean()
        target = torch.arange(len(own), device=own.device)
        contrast = F.cross_entropy(similarity / self.config.temperature, target)
        accuracy = (similarity.argmax(1) == target).float().mean()
        metrics = {"cosine": float(1 - distance.detach()), "accuracy": float(accuracy)}
        return Loss(distance + 0.1 * contrast, metrics)

    def preview(self) -> None:
        """There is nothing to look at."""

    def export(self, folder: Path) -> None:
        TextEncoder(self.tower, self.tokenizer).save(folder, torch.float16)
