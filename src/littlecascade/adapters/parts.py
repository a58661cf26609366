"""Changes of the three matrices in a fused one, each by itself, and one LoRA in their place where that can be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from littlecascade.adapters.deltas import FUSED, Delta, LoRA


class Parts(Delta):
    """The changes of the three matrices in a fused one, each by itself; None leaves one as it is."""

    kind = "parts"
    FACTORS: ClassVar = {}

    def __init__(self, parts: Sequence[Delta | None]) -> None:
        super().__init__(None)
        self.parts = nn.ModuleList(nn.Identity() if part is None else part for part in parts)
        self.present = [part is not None for part in parts]
        self.reads_base = any(part.reads_base for part in parts if part is not None)

    @property
    def deltas(self) -> list[Delta | None]:
        """The three of them."""
        given = zip(self.parts, self.present, strict=True)
        return [part if there and isinstance(part, Delta) else None for part, there in given]

    @property
    def rank(self) -> int:
        return max(part.rank for part in self.deltas if part is not None)

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = next(part.shape for part in self.deltas if part is not None)
        return FUSED * rows, columns

    def product(self, x: Tensor) -> Tensor:
        raise NotImplementedError("each part has a scale of its own: call forward")

    def whole(self) -> Tensor:
        raise NotImplementedError("each part has a scale of its own: call matrix")

    def forward(self, x: Tensor, base: Tensor, weight: Tensor, first: int = 0) -> Tensor:
        height, last = self.shape[0] // FUSED, first + base.shape[-1]
        pieces: list[Tensor] = []
        for start, part in zip(range(0, self.shape[0], height), self.deltas, strict=True):
            low, high = max(first, start), min(last, start + height)
            if low < high:
                own = base[..., low - first : high - first]
                rows = weight[start : start + height]
                pieces.append(torch.zeros_like(own) if part is None else part(x, own, rows, low - start))
        return torch.cat(pieces, dim=-1)

    def matrix(self, weight: Tensor) -> Tensor:
        thirds = zip(self.deltas, weight.chunk(FUSED), strict=True)
        return torch.cat([torch.zeros_like(own).float() if part is None else part.matrix(own) for part, own in thirds])

    def cut(self) -> list[Self]:
        raise NotImplementedError("it is cut already: its parts are in deltas")


def fused(delta: Delta) -> Delta:
    """The same change as one LoRA, where `Parts` are LoRAs; anything else as it is.

    Parts that share `down` keep their rank; others have their ranks added up, with zeros where rows of one part would
    meet what belongs to another.
    """
    if not isinstance(delta, Parts):
        return delta
    parts = [part for part in delta.deltas if part is not None]
    if any(type(part) is not LoRA for part in parts):
        return delta
    loras = [part for part in delta.deltas if part is None or isinstance(part, LoRA)]
    present = [part for part in loras if part is not None]
    height, first = delta.shape[0] // FUSED, present[0]
    shared = all(
        part is not None and part.scale == first.scale and torch.equal(part.down, first.down) for part in loras
    )
    if shared:
        return LoRA(torch.cat([part.up.detach() for part in present]), first.down.detach(), first.alpha)
    up = first.up.detach().new_zeros(delta.shape[0], sum(part.rank for part in present))
    column = 0
    for number, part in enumerate(loras):
        if part is not None:
            up[number * height : (number + 1) * height, column : column + part.rank] = part.up.detach() * part.scale
            column += part.rank
    return LoRA(up, torch.cat([part.down.detach() for part in present]))
