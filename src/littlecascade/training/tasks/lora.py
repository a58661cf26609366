"""Training a LoRA beside a frozen Stage C, and tokens of the text tower with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from littlecascade.adapters import files
from littlecascade.adapters.deltas import Delta
from littlecascade.adapters.injection import Deltas, Injection, Layer
from littlecascade.adapters.tokens import LearnedTokens, TokenInjection
from littlecascade.checkpoint.networks import load_network
from littlecascade.conditioning.text import TextEncoder
from littlecascade.conditioning.tokenizer import ClipTokenizer
from littlecascade.data.order import derive_seed
from littlecascade.errors import InputError
from littlecascade.memory import rescale
from littlecascade.training.config import DiffusionRun
from littlecascade.training.config_adapters import LoraRun
from littlecascade.training.draws import Draws
from littlecascade.training.task import Batch, Phase
from littlecascade.training.tasks.common import compute_dtype
from littlecascade.training.tasks.prior import Prior
from littlecascade.training.tasks.stage_c import StageCTask


class LoraTask(StageCTask):
    """Stage C stays as it is, in the precision of the run; only what is trained has gradients, moments and averages.

    Where tokens are trained, the text tower is in memory and embeds each caption anew; else its embeddings are kept.
    """

    config: LoraRun

    def __init__(self, config: LoraRun) -> None:
        super().__init__(config)
        self.deltas = self._begin(config)
        self.injection = Injection(self.network, [Layer(self.deltas)])
        self.vocabulary = Vocabulary(config) if config.train_tokens else None
        modules: dict[str, nn.Module] = {"lora": self.deltas}
        if self.vocabulary is not None:
            modules["tokens"] = self.vocabulary.tokens
        self.phases = [Phase("lora", modules)]
        self.prior = self._draw_prior() if config.prior_prompts else None

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
        return stored.float()

    def build(self, built: Any, config: DiffusionRun) -> Any:
        assert config.generator_checkpoint_path is not None
        network = load_network("stage_c", config.generator_checkpoint_path, config=built, dtype=compute_dtype(config))
        if network.dtype == torch.float16:
            rescale.divide(network)
        return network

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

    def prepare(self, raw: Any, draws: Draws) -> Batch:
        batch = super().prepare(raw, draws)
        return batch if self.prior is None else self.prior.mix(batch, self.words, draws)

    def wanted(self, target: Tensor, x: Tensor, time: Tensor, batch: Batch) -> Tensor:
        """For samples of the prior, what Stage C predicts without the LoRA."""
        kept: Tensor | None = batch.get("kept")
        if kept is None or not kept.any():
            return target
        rows = {name: value[kept] for name, value in batch.items() if isinstance(value, Tensor)}
        with torch.no_grad(), self.injection.paused():
            prediction = self.network(x[kept], time[kept], **self.conditions(rows)).float()
        return target.index_put((kept,), prediction)

    @torch.no_grad()
    def _draw_prior(self) -> Prior:
        """As many pictures at a time as in training. They are drawn again when a run goes on, and are the same."""
        prompts, size = self.config.prior_prompts, self.config.micro_batch
        if self.vocabulary is None:
            self.data.prepare_texts(["", *prompts])
        parts = [prompts[start : start + size] for start in range(0, len(prompts), size)]
        with self.injection.paused():
            drawn = [self.draw_prompts(part) for part in tqdm(parts, "drawing prior_prompts", disable=None)]
        return Prior(prompts, torch.cat(drawn), self.config.prior_share)

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

    def __init__(self, config: LoraRun) -> None:
        encoder = TextEncoder.load(config.text_path, compute_dtype(config))
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
