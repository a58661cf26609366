"""Captions as a training run sees them: each alternative encoded once, one chosen at random per visit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from littlecascade.conditioning.text import TextEncoder
from littlecascade.data.cache import TensorCache, cached, fingerprint
from littlecascade.training.draws import Draws


class CaptionTable:
    """The text embeddings of all captions of a data set, and of the empty prompt."""

    def __init__(self, captions: Sequence[Sequence[str]], encoder: TextEncoder, root: Path) -> None:
        lines = sorted({line for alternatives in captions for line in alternatives} | {""})
        row_of = {line: row for row, line in enumerate(lines)}
        self.empty = row_of[""]
        self.rows = [[row_of[line] for line in alternatives] or [self.empty] for alternatives in captions]
        key = "\n".join([fingerprint(encoder.tower), *lines])

        def hidden(rows: range) -> Tensor:
            return encoder.encode([lines[row] for row in rows], chunks=1).hidden

        def pooled(rows: range) -> Tensor:
            return encoder.encode([lines[row] for row in rows], chunks=1).pooled

        self.hidden: TensorCache = cached(root, "text", key, len(lines), hidden, batch=256)
        self.pooled: TensorCache = cached(root, "pooled", key, len(lines), pooled, batch=256)

    def choose(self, indices: Sequence[int], draws: Draws, dropout: float) -> list[int]:
        """For each sample the row of one of its captions, or, with probability `dropout`, of the empty prompt."""
        picks, dropped = draws.integers(1 << 30), draws.chance(dropout).tolist()
        choices = zip(indices, picks, dropped, strict=True)
        return [self.empty if drop else self.rows[at][pick % len(self.rows[at])] for at, pick, drop in choices]


def keep(values: Tensor, kept: Tensor) -> Tensor:
    """values: (B, ...) with zeros in the rows where `kept`, (B,) bool, is false."""
    return torch.where(kept.view(-1, *[1] * (values.ndim - 1)), values, 0.0)
