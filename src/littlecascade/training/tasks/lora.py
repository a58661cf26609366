"""Training a LoRA beside a frozen Stage C, and tokens of the text tower with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from littlecascade.adapters import files
from littlecascade.adapters.deltas import Delta
from littlecascade.adapters.injection import Deltas, Injection, Layer
from littlecascade.adapters.tokens import LearnedTokens, TokenInjection
from littlecascade.conditioning.tokenizer import ClipTokenizer
from littlecascade.data.order import derive_seed
from littlecascade.errors import InputError
from littlecascade.training.config import DiffusionRun
from littlecascade.training.config_adapters import LoraRun
from littlecascade.training.draws import Draws
from littlecascade.training.stock import Stock
from littlecascade.training.task import Batch, Phase
from littlecascade.training.tasks.stage_c import StageCTask


class LoraTask(StageCTask):
    """Stage C stays as it is, in the precision of the run; only what is trained has gradients, moments and averages.

    Where tokens are trained, the text tower is in memory and embeds each caption anew; else its embeddings are kept.
    """

    config: LoraRun

    def __init__(self, config: LoraRun, stock: Stock) -> None:
        super().__init__(config, stock)
        self.deltas = self._begin(config)
        self.injection = Injection(self.network, [Layer(self.deltas)])
        self.vocabulary = Vocabulary(config, stock) if config.train_tokens else None
        modules: dict[str, nn.Module] = {"lora": self.deltas}
        if self.vocabulary is not None:
            modules["tokens"] = self.vocabulary.tokens
        self.phases = [Phase("lora", modules)]

    def _begin(self, config: LoraRun) -> Deltas:
        """New changes that change nothing yet, with those of `lora_checkpoint_path` in their place if it is given."""
        deltas = Deltas.create(
            self.network,
            config.module_filters,
            kind=config.lora_type,
            rank=config.rank,
            alpha=config.lora_alpha,
            dropout=config.lora_dropout,
            generator=torch.Generator().manual_seed(derive_seed(config.seed, *b"lora")),
        )
        path = config.lora_checkpoint_path
        if path is None:
            return deltas
        stored = files.Adapter.load(path).read_deltas({"stage_c": self.network}).get("stage_c")
        kept = {} if stored is None else stored.by_site
        shapes, own = ({name: _outline(delta) for name, delta in one.items()} for one in (kept, deltas.by_site))
        if stored is None or shapes != own:
            raise InputError(
                f"{path} is no LoRA to go on from here: its modules, rank or kind are other than module_filters, rank "
                "and lora_type say. 'littlecascade lora show' says what it has."
            )
        for delta in kept.values():
            delta.dropout = config.lora_dropout
        return stored.to(self.device, torch.float32)

    def build(self, built: Any, config: DiffusionRun, stock: Stock) -> Any:
        assert isinstance(config, LoraRun)
        assert config.generator_checkpoint_path is not None
        return stock.base("stage_c", built, config, config.generator_checkpoint_path)

    @property
    def networks(self) -> Sequence[nn.Module]:
        return [*super().networks, self.network]

    def words(self, texts: Sequence[str], spoken: Tensor, draws: Draws | None) -> dict[str, Tensor]:
        return super().words(texts, spoken, draws) if self.vocabulary is None else self.vocabulary.read(texts)

    def conditions(self, batch: Batch) -> dict[str, Tensor]:
        if self.vocabulary is not None:
            hidden, pooled = self.vocabulary.embed(batch["ids"], batch["padding"])
            batch = {**batch, "text": hidden, "pooled": pooled}
        return super().conditions(batch)

    def preview(self) -> Image.Image | None:
        """What is drawn without the LoRA, above what is drawn with it."""
        self.injection.remove()
        before = super().preview()
        self.injection = Injection(self.network, [Layer(self.deltas)])
        after = super().preview()
        if before is None or after is None:
            return None
        sheet = Image.new("RGB", (after.width, before.height + after.height), "white")
        sheet.paste(before, (0, 0))
        sheet.paste(after, (0, before.height))
        return sheet

    def export(self, folder: Path) -> None:
        """Write the file in the official format, or, where that has no place for the kind, in ComfyUI's."""
        form = "official" if self.config.lora_type == "lora" else "comfy"
        tokens, tokenizer = (None, None) if self.vocabulary is None else self.vocabulary.learned
        content = files.Content({"stage_c": self.deltas}, tokens)
        path = folder / f"{self.config.experiment_id}.safetensors"
        files.save(path, form, content, {"stage_c": self.network}, tokenizer, dtype=torch.float16)


def _outline(delta: Delta) -> tuple[str, tuple[int, int], int]:
    """What two changes of a matrix share of which one can go on where the other ended."""
    return delta.kind, delta.shape, delta.rank


class Vocabulary:
    """The text tower with the tokens that are trained."""

    def __init__(self, config: LoraRun, stock: Stock) -> None:
        encoder = stock.text_encoder(config.text_path, config)
        self.tower, self.mask_padding = encoder.tower.requires_grad_(False).eval(), encoder.mask_padding
        self.places, self.length, self.tokenizer = encoder.tokens, encoder.length, encoder.tokenizer
        self.tokens = LearnedTokens.create(config.train_tokens, encoder.tokenizer, encoder.tower)
        self.extended = encoder.tokenizer.extended(TokenInjection(self.tower, [self.tokens]).names)

    @property
    def learned(self) -> tuple[LearnedTokens, ClipTokenizer]:
        """The tokens, and the tokenizer that they extend."""
        return self.tokens, self.tokenizer

    def read(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Captions as ids and padding, (B, T) each, cut to one chunk."""
        chunks = [self.extended.chunks(text, self.length)[0] for text in texts]
        ids, padding = self.extended.collate(chunks, self.places)
        return {"ids": ids, "padding": padding}

    def embed(self, ids: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states (B, T, width) and pooled vectors (B, 1, projection), with gradients for the tokens."""
        hidden, pooled = self.tower(ids, padding if self.mask_padding else None)
        return hidden, pooled.unsqueeze(1)
