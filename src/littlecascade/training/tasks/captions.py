"""Captions as a training run sees them: each alternative encoded once, one chosen at random per visit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from littlecascade.conditioning.text import TextEmbedding, TextEncoder
from littlecascade.data.cache import TensorCache, cached, fingerprint
from littlecascade.training.draws import Draws


class CaptionTable:
    """All captions of a data set, and the empty prompt: a row each in the caches of their embeddings."""

    def __init__(self, captions: Sequence[Sequence[str]], encoder: TextEncoder, root: Path) -> None:
        self.lines = sorted({line for alternatives in captions for line in alternatives} | {""})
        row_of = {line: row for row, line in enumerate(self.lines)}
        self.empty = row_of[""]
        self.rows = [[row_of[line] for line in alternatives] or [self.empty] for alternatives in captions]
        self.encoder, self.root = encoder, root

    def hidden(self) -> TensorCache:
        """The hidden states, (T, width) of each row."""
        return self._cached("text", lambda embedding: embedding.hidden)

    def pooled(self) -> TensorCache:
        """The pooled vectors, (1, projection) of each row."""
        return self._cached("pooled", lambda embedding: embedding.pooled)

    def _cached(self, name: str, part: Callable[[TextEmbedding], Tensor]) -> TensorCache:
        encoder, lines = self.encoder, self.lines
        tokens = [str(encoder.tokenizer.encode(line)) for line in lines]
        key = "\n".join([fingerprint(encoder.tower), str(encoder.tokens), str(encoder.mask_padding), *tokens])

        def compute(rows: range) -> Tensor:
            return part(encoder.encode([lines[row] for row in rows], chunks=1, batch_size=len(rows)))

        return cached(self.root, name, key, len(lines), compute, batch=256)

    def choose(self, indices: Sequence[int], draws: Draws, dropout: float) -> list[int]:
        """For each sample the row of one of its captions, or, with probability `dropout`, of the empty prompt."""
        picks, dropped = draws.integers(1 << 30), draws.chance(dropout).tolist()
        choices = zip(indices, picks, dropped, strict=True)
        return [self.empty if drop else self.rows[at][pick % len(self.rows[at])] for at, pick, drop in choices]


def keep(values: Tensor, kept: Tensor) -> Tensor:
    """values: (B, ...) with zeros in the rows where `kept`, (B,) bool, is false."""
    return torch.where(kept.view(-1, *[1] * (values.ndim - 1)), values, 0.0)
