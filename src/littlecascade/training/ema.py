"""Exponential moving average of weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Ema:
    """Averages of named tensors, float32: every `every` updates they become `beta` averages + (1 - `beta`) weights.

    Up to and including update number `start` they are plain copies. Where `beta` is 0 and `every` 1 they would never be
    anything else: then nothing is kept, and `average` is `tensors`, a mapping that always gives the present ones.
    """

    def __init__(self, tensors: Mapping[str, Tensor], *, beta: float, every: int, start: int) -> None:
        self.beta, self.every, self.start = beta, every, start
        self.average = tensors if self.idle else {name: own.detach().float().clone() for name, own in tensors.items()}

    @property
    def idle(self) -> bool:
        """Whether nothing is kept."""
        return self.beta == 0 and self.every == 1

    @torch.no_grad()
    def update(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Take in the weights after update number `step` (counted from 1)."""
        if self.idle or (step % self.every and step > self.start):
            return
        weight = 1.0 if step <= self.start else 1 - self.beta
        for name, average in self.average.items():
            average.lerp_(tensors[name].detach().float(), weight)
