"""The text tower in a run that trains words: tokens of its vocabulary, or changes of its matrices."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from littlecascade.adapters.tokens import LearnedTokens, TokenInjection
from littlecascade.conditioning.tokenizer import ClipTokenizer
from littlecascade.training.config_adapters import LoraRun
from littlecascade.training.stock import Stock


class Words:
    """Embeds captions with gradients for what is trained. Raises `InputError` for tokens that match nothing."""

    def __init__(self, config: LoraRun, stock: Stock) -> None:
        encoder = stock.text_encoder(config.text_path, config)
        self.tower, self.mask_padding = encoder.tower.requires_grad_(False).eval(), encoder.mask_padding
        self.places, self.length = encoder.tokens, encoder.length
        self.tokenizer = self.extended = encoder.tokenizer
        self.tokens: LearnedTokens | None = None
        if config.train_tokens:
            self.tokens = LearnedTokens.create(config.train_tokens, encoder.tokenizer, encoder.tower)
            self.extended = encoder.tokenizer.extended(TokenInjection(self.tower, [self.tokens]).names)

    @property
    def learned(self) -> tuple[LearnedTokens, ClipTokenizer] | None:
        """The tokens, and the tokenizer that they extend; None without."""
        return None if self.tokens is None else (self.tokens, self.tokenizer)

    def read(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Captions as ids and padding, (B, T) each, cut to one chunk."""
        chunks = [self.extended.chunks(text, self.length)[0] for text in texts]
        ids, padding = self.extended.collate(chunks, self.places)
        return {"ids": ids, "padding": padding}

    def embed(self, ids: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states (B, T, width) and pooled vectors (B, 1, projection), with gradients for what is trained."""
        hidden, pooled = self.tower(ids, padding if self.mask_padding else None)
        return hidden, pooled.unsqueeze(1)
