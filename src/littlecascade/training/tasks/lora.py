"""Training a LoRA beside a frozen Stage C, with words of the text tower, or beside a frozen Stage B."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from littlecascade.training.config import DiffusionRun
from littlecascade.training.config_adapters import AdapterRun, LoraBRun, LoraRun
from littlecascade.training.draws import Draws
from littlecascade.training.stock import Stock
from littlecascade.training.task import Batch, Phase
from littlecascade.training.tasks.changes import Changes, compared, go_on, paused, write
from littlecascade.training.tasks.prior import Prior
from littlecascade.training.tasks.stage_b import StageBTask
from littlecascade.training.tasks.stage_c import StageCTask
from littlecascade.training.tasks.words import Words


class LoraTask(StageCTask):
    """Stage C stays as it is, in the precision of the run; only what is trained has gradients, moments and averages.

    Where the text tower is changed, or its tokens, it is in memory and embeds each caption anew; else its embeddings
    are kept.
    """

    config: LoraRun

    def __init__(self, config: LoraRun, stock: Stock) -> None:
        super().__init__(config, stock)
        self.changes = [Changes("stage_c", self.network, config.module_filters, config)]
        self.vocabulary = Words(config, stock) if config.trains_words else None
        if self.vocabulary is not None and config.text_module_filters:
            self.changes.append(Changes("text", self.vocabulary.tower, config.text_module_filters, config))
        go_on(self.changes, config)
        self.phases = [Phase("lora", modules_of(self.changes, self.vocabulary))]
        self.prior = self._draw_prior() if config.prior_prompts else None

    def build(self, built: Any, config: DiffusionRun, stock: Stock) -> Any:
        assert isinstance(config, AdapterRun)
        assert config.generator_checkpoint_path is not None
        return stock.base(self.role, built, config, config.generator_checkpoint_path)

    @property
    def networks(self) -> Sequence[nn.Module]:
        return [*super().networks, *(one.network for one in self.changes)]

    def words(self, texts: Sequence[str], spoken: Tensor, draws: Draws | None) -> dict[str, Tensor]:
        return super().words(texts, spoken, draws) if self.vocabulary is None else self.vocabulary.read(texts)

    def conditions(self, batch: Batch) -> dict[str, Tensor]:
        if self.vocabulary is not None:
            hidden, pooled = self.vocabulary.embed(batch["ids"], batch["padding"])
            batch = {**batch, "text": hidden, "pooled": pooled}
        return super().conditions(batch)

    def prepare(self, raw: Any, draws: Draws) -> Batch:
        batch = super().prepare(raw, draws)
        return batch if self.prior is None else self.prior.mix(batch, self.words, draws)

    def wanted(self, target: Tensor, x: Tensor, time: Tensor, batch: Batch) -> Tensor:
        """For samples of the prior, what Stage C predicts without the LoRA."""
        kept: Tensor | None = batch.get("kept")
        if kept is None or not kept.any():
            return target
        rows = {name: value[kept] for name, value in batch.items() if isinstance(value, Tensor)}
        with torch.no_grad(), paused(self.changes):
            prediction = self.network(x[kept], time[kept], **self.conditions(rows)).float()
        return target.index_put((kept,), prediction)

    @torch.no_grad()
    def _draw_prior(self) -> Prior:
        """As many pictures at a time as in training. They are drawn again when a run goes on, and are the same."""
        prompts, size = self.config.prior_prompts, self.config.micro_batch
        if self.vocabulary is None:
            self.data.prepare_texts(["", *prompts])
        parts = [prompts[start : start + size] for start in range(0, len(prompts), size)]
        with paused(self.changes):
            drawn = [self.draw_prompts(part).cpu() for part in tqdm(parts, "drawing prior_prompts", disable=None)]
        return Prior(prompts, torch.cat(drawn), self.config.prior_share)

    def preview(self) -> Image.Image | None:
        return compared(super().preview, self.changes)

    def export(self, folder: Path) -> None:
        write(folder, self.config, self.changes, None if self.vocabulary is None else self.vocabulary.learned)


class LoraBTask(StageBTask):
    """Stage B stays as it is, in the precision of the run; only what is trained has gradients, moments and averages."""

    config: LoraBRun

    def __init__(self, config: LoraBRun, stock: Stock) -> None:
        super().__init__(config, stock)
        self.changes = [Changes("stage_b", self.network, config.module_filters, config)]
        go_on(self.changes, config)
        self.phases = [Phase("lora", modules_of(self.changes))]

    def build(self, built: Any, config: DiffusionRun, stock: Stock) -> Any:
        assert isinstance(config, LoraBRun)
        assert config.generator_checkpoint_path is not None
        return stock.base(self.role, built, config, config.generator_checkpoint_path)

    @property
    def networks(self) -> Sequence[nn.Module]:
        return [*super().networks, self.network]

    def preview(self) -> Image.Image | None:
        return compared(super().preview, self.changes)

    def export(self, folder: Path) -> None:
        write(folder, self.config, self.changes)


def modules_of(changes: Sequence[Changes], words: Words | None = None) -> dict[str, nn.Module]:
    """What is trained, by the names that checkpoints have for it."""
    modules: dict[str, nn.Module] = {"text" if one.role == "text" else "lora": one.deltas for one in changes}
    return modules if words is None or words.tokens is None else modules | {"tokens": words.tokens}
