"""Exponential moving average of weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from littlecascade.memory.offload import Lane


class Ema:
    """Averages of named tensors, float32: every `every` updates they become `beta` averages + (1 - `beta`) weights.

    Up to and including update number `start` they are plain copies. Where `beta` is 0 and `every` 1 they would never be
    anything else: then nothing is kept, and `average` is `tensors`, a mapping that always gives the present ones.

    lane: with one, averages are in the machine's memory, and on the device while they are changed.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], *, beta: float, every: int, start: int, lane: Lane | None = None
    ) -> None:
        self.beta, self.every, self.start = beta, every, start
        keep = torch.clone if lane is None else lane.home
        self.average = tensors if self.idle else {name: keep(own.detach().float()) for name, own in tensors.items()}

    @property
    def idle(self) -> bool:
        """Whether nothing is kept, averages being the weights themselves."""
        return self.beta == 0 and self.every == 1

    @torch.no_grad()
    def update(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Take in the weights after update number `step` (counted from 1)."""
        if self.idle or (step % self.every and step > self.start):
            return
        weight = 1.0 if step <= self.start else 1 - self.beta
        for name, average in self.average.items():
            tensor = tensors[name].detach().float()
            there = average.to(tensor.device)
            there.lerp_(tensor, weight)
            if there is not average:
                average.copy_(there)
