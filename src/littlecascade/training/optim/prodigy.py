"""Prodigy, which finds its learning rate by itself: `lr` is a factor to it, and is best left at 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from littlecascade.errors import InputError
from littlecascade.training.config import RunConfig

SHARED = ("d", "d_max", "d_hat", "d_numerator", "d_denom", "k")
"""The numbers that all weights share, by the names of the package's parameter groups."""


class Prodigy:
    """Mishchenko and Defazio 2023, by the package prodigyopt, with bias correction. Sixteen bytes of state a value.

    It steps on all weights at once: `take` hands it their gradients, `finish` has it step. weights: float32, by name.
    decays: the weight decay of each. Raises `InputError` where the package is missing.
    """

    def __init__(self, weights: Mapping[str, Tensor], decays: Mapping[str, float], config: RunConfig) -> None:
        try:
            from prodigyopt import Prodigy as Package
        except ImportError:
            raise InputError(
                "optimizer: prodigy needs the package prodigyopt, which is not installed: "
                "pip install 'littlecascade[prodigy]'."
            ) from None
        self.weights = weights
        groups = [
            {"params": [own for name, own in weights.items() if decays[name] == decay], "weight_decay": decay}
            for decay in dict.fromkeys(decays.values())
        ]
        self.optimizer: torch.optim.Optimizer = Package(
            groups,
            lr=config.lr,
            betas=config.betas,
            use_bias_correction=True,
            safeguard_warmup=config.warmup_updates > 0,
        )

    def take(self, name: str, gradient: Tensor) -> None:
        """Hand over a weight's gradient."""
        self.weights[name].grad = gradient

    def finish(self, lr: float) -> None:
        """Step on the weights, in place."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        for weight in self.weights.values():
            weight.grad = None

    def state(self) -> dict[str, Tensor]:
        """All that is kept, as `{name}.{weight}` and `prodigy.{name}`; nothing before the first step."""
        own = {
            f"{name}.{weight}": torch.as_tensor(value)
            for weight, tensor in self.weights.items()
            for name, value in self.optimizer.state.get(tensor, {}).items()
        }
        group = self.optimizer.param_groups[0]
        shared = {name: torch.tensor(group[name], dtype=torch.float64) for name in SHARED if own and name in group}
        return own | {f"prodigy.{name}": value for name, value in shared.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
        for weight, tensor in self.weights.items():
            names = [name for name in ("s", "p0", "exp_avg", "exp_avg_sq") if f"{name}.{weight}" in tensors]
            if names:
                own: dict[str, Any] = {name: tensors[f"{name}.{weight}"].to(tensor.device, copy=True) for name in names}
                self.optimizer.state[tensor] = {"step": int(tensors[f"step.{weight}"]), **own}
        for name in SHARED:
            if f"prodigy.{name}" in tensors:
                value = tensors[f"prodigy.{name}"].item()
                for group in self.optimizer.param_groups:
                    group[name] = int(value) if name == "k" else value
