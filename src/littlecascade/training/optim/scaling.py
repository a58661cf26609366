"""Loss scaling, without which the smallest gradients of a network in float16 would become zero."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

START = 2.0**16
PATIENCE = 2000
"""Updates in a row that went well before the scale is doubled."""


class LossScale:
    """Dynamic loss scaling (Micikevicius et al. 2018, 3.2), by the rules of `torch.amp.GradScaler`: halved for every
    update whose gradients overflow, doubled after `PATIENCE` that do not; here never below 1.

    used: False keeps the scale at 1 for good.
    """

    def __init__(self, *, used: bool) -> None:
        self.used = used
        self.value = START if used else 1.0
        self.good = self.overflows = 0

    def succeed(self) -> None:
        """After gradients that were finite."""
        self.good += 1
        if self.used and self.good >= PATIENCE:
            self.value, self.good = self.value * 2, 0

    def absorb(self) -> bool:
        """After gradients that were not: whether the scale may be to blame, and has been halved."""
        self.good = 0
        if self.value <= 1:
            return False
        self.value /= 2
        self.overflows += 1
        return True

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps; nothing where the scale is not used."""
        if not self.used:
            return {}
        kept = {"value": self.value, "good": self.good, "overflows": self.overflows}
        return {f"loss_scale.{name}": torch.tensor(value, dtype=torch.float64) for name, value in kept.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave; a checkpoint of another precision holds none."""
        if self.used and "loss_scale.value" in tensors:
            self.value = float(tensors["loss_scale.value"])
            self.good, self.overflows = (int(tensors[f"loss_scale.{name}"]) for name in ("good", "overflows"))
