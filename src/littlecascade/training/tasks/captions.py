"""Captions as a training run sees them: each alternative encoded once, one chosen at random per visit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from littlecascade.conditioning.text import TextEmbedding, TextEncoder
from littlecascade.data.cache import cached, fingerprint
from littlecascade.training.draws import Draws


class CaptionTable:
    """The text embeddings of all captions of a data set, and of the empty prompt, a row each; captions are cut to one
    chunk of tokens.
    """

    def __init__(self, captions: Sequence[Sequence[str]], encoder: TextEncoder, root: Path) -> None:
        lines = sorted({line for alternatives in captions for line in alternatives} | {""})
        row_of = {line: row for row, line in enumerate(lines)}
        self.empty = row_of[""]
        self.rows = [[row_of[line] for line in alternatives] or [self.empty] for alternatives in captions]
        self.width = encoder.tower.config.width
        self.projection = encoder.tower.config.projection

        def compute(rows: range) -> Tensor:
            embedding = encoder.encode([lines[row] for row in rows], chunks=1, batch_size=len(rows))
            return torch.cat([embedding.hidden.flatten(1), embedding.pooled.flatten(1)], dim=1)

        tokens = [str(encoder.tokenizer.encode(line)) for line in lines]
        key = "\n".join([fingerprint(encoder.tower), str(encoder.tokens), str(encoder.mask_padding), *tokens])
        self.cache = cached(root, "captions", key, len(lines), compute, batch=256)

    def embed(self, rows: Sequence[int]) -> TextEmbedding:
        """The hidden states (B, T, width) and pooled vectors (B, 1, projection) of these rows."""
        values = self.cache[rows]
        hidden, pooled = values.split([values.shape[1] - self.projection, self.projection], dim=1)
        return TextEmbedding(hidden.unflatten(1, (-1, self.width)), pooled.unsqueeze(1))

    def choose(self, indices: Sequence[int], draws: Draws, dropout: float) -> list[int]:
        """For each sample the row of one of its captions, or, with probability `dropout`, of the empty prompt."""
        picks, dropped = draws.integers(1 << 30), draws.chance(dropout).tolist()
        choices = zip(indices, picks, dropped, strict=True)
        return [self.empty if drop else self.rows[at][pick % len(self.rows[at])] for at, pick, drop in choices]


def keep(values: Tensor, kept: Tensor) -> Tensor:
    """values: (B, ...) with zeros in the rows where `kept`, (B,) bool, is false."""
    return torch.where(kept.view(-1, *[1] * (values.ndim - 1)), values, 0.0)
