"""Optimizers over float32 master weights, for models that compute in 16 bits.

The model's own parameters stay in its compute type; the optimizer owns float32 masters of them, steps on these, and
copies the result back. For float32 models masters and parameters are the same tensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from littlecascade.training.config import RunConfig


class MasterOptimizer:
    """AdamW, or Muon for matrices with AdamW for the rest, with gradient clipping and a finite check.

    `step` returns the gradient's norm before clipping; where that is not finite nothing is changed.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], config: RunConfig) -> None:
        self.parameters = dict(parameters)
        self.max_norm = config.max_grad_norm
        self.masters = {
            name: parameter if parameter.dtype == torch.float32 else nn.Parameter(parameter.detach().float())
            for name, parameter in self.parameters.items()
        }
        matrices = {
            name for name, master in self.masters.items() if config.optimizer == "muon" and is_hidden_matrix(name, master)
        }
        decayed = [master for name, master in self.masters.items() if master.ndim > 1 and name not in matrices]
        plain = [master for master in self.masters.values() if master.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)
        ]
        if matrices:
            chosen = [master for name, master in self.masters.items() if name in matrices]
            self.optimizers.append(Muon(chosen, lr=config.lr, weight_decay=config.weight_decay))
        self.lr = config.lr

    def zero_grad(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def step(self, lr_scale: float) -> float:
        for name, parameter in self.parameters.items():
            master = self.masters[name]
            if master is not parameter:
                master.grad = None if parameter.grad is None else parameter.grad.float()
        norm = float(nn.utils.clip_grad_norm_(self.masters.values(), self.max_norm))
        if not math.isfinite(norm):
            return norm
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.lr * lr_scale
            optimizer.step()
        for name, parameter in self.parameters.items():
            if self.masters[name] is not parameter:
                parameter.copy_(self.masters[name])
        return norm

    def state_tensors(self) -> dict[str, Tensor]:
        """Masters and moments by name: all that is needed to go on bit for bit."""
        tensors = {f"master.{name}": master.detach() for name, master in self.masters.items()}
        for name, master in self.masters.items():
            for key, value in self._state_of(master).items():
                tensors[f"{key}.{name}"] = torch.as_tensor(value)
        return tensors

    @torch.no_grad()
    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        names = {name: master for name, master in self.masters.items()}
        for name, master in names.items():
            master.copy_(tensors[f"master.{name}"])
            self.parameters[name].copy_(master)
            owner = self._owner(master)
            keys = MOMENTS[type(owner)]
            if all(f"{key}.{name}" in tensors for key in keys):
                owner.state[master] = {key: tensors[f"{key}.{name}"].clone() for key in keys}

    def _owner(self, master: Tensor) -> torch.optim.Optimizer:
        return next(
            optimizer
            for optimizer in self.optimizers
            for group in optimizer.param_groups
            for owned in group["params"]
            if owned is master
        )

    def _state_of(self, master: Tensor) -> dict[str, Any]:
        return self._owner(master).state.get(master, {})


def is_hidden_matrix(name: str, tensor: Tensor) -> bool:
    """Whether Muon should own a tensor: a matrix or a dense convolution between hidden layers.

    Embeddings, first and last layers, depthwise convolutions and vectors are AdamW's.
    """
    edges = ("embedding", "clf", "in_block", "out_block")
    return tensor.ndim in (2, 4) and min(tensor.shape[:2]) > 1 and not any(edge in name for edge in edges)


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised: the update of a matrix is the nearest semi-orthogonal matrix to its momentum.

    A convolution's weight (out, in, height, width) counts as a matrix of one row per output channel.

    Jordan et al. 2024, "Muon: an optimizer for hidden layers"; the scale 0.2 sqrt(max(rows, columns)) of Liu et al. 2025,
    "Muon is scalable for LLM training", gives updates the size that AdamW's have, so both share one learning rate.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                momentum: Tensor = state["momentum_buffer"]
                momentum.lerp_(parameter.grad, 1 - group["momentum"])
                update = orthogonalise(parameter.grad.lerp(momentum, group["momentum"]).flatten(1))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                size = -0.2 * group["lr"] * math.sqrt(max(update.shape))
                parameter.add_(update.view_as(parameter), alpha=size)


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """Push all singular values of a matrix towards 1 by Newton-Schulz iterations of degree five, in bfloat16.

    The coefficients are those of Jordan et al. 2024: they trade exactness (values end in about 0.7 to 1.2) for speed.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).bfloat16()
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)


MOMENTS: dict[type[torch.optim.Optimizer], tuple[str, ...]] = {
    torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq"),
    Muon: ("momentum_buffer",),
}


def lr_scale(step: int, config: RunConfig, progress: float) -> float:
    """The learning rate of update `step` (from 0) as a share of `lr`: linear warm-up, then the schedule.

    `progress` in [0, 1] is how much of the run is done, by updates.
    """
    warmup = min(1.0, (step + 1) / config.warmup_updates) if config.warmup_updates else 1.0
    decay = {
        "constant": 1.0,
        "linear": 1 - progress,
        "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
    }[config.lr_schedule]
    return warmup * max(decay, 0.01)
