"""Optimizers over float32 master weights, for models that compute in 16 bits.

The model's own parameters stay in its compute type; the optimizer owns float32 masters of them, steps on these, and
copies the result back. For float32 models masters and parameters are the same tensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from littlecascade.training.config import RunConfig


class MasterOptimizer:
    """AdamW, or Muon for matrices with AdamW for the rest, with gradient clipping and a finite check.

    Weight decay acts on matrices and kernels, not on biases, norms and other vectors.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], config: RunConfig) -> None:
        self.parameters = dict(parameters)
        self.max_norm = config.max_grad_norm
        self.masters = {
            name: parameter if parameter.dtype == torch.float32 else nn.Parameter(parameter.detach().float())
            for name, parameter in self.parameters.items()
        }
        muon = config.optimizer == "muon"
        self.matrices = {name: own for name, own in self.masters.items() if muon and is_hidden_matrix(name, own)}
        rest = [master for name, master in self.masters.items() if name not in self.matrices]
        groups = [
            {"params": [master for master in rest if master.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [master for master in rest if master.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)
        ]
        if self.matrices:
            self.optimizers.append(Muon(self.matrices.values(), lr=config.lr, weight_decay=config.weight_decay))
        self.lr = config.lr

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def step(self, lr_scale: float) -> float:
        """Take in the gradients, at `lr_scale` times the learning rate.

        Returns the gradient's norm before clipping; where that is not finite nothing is changed.
        """
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
        self.publish()
        return norm

    @torch.no_grad()
    def publish(self) -> None:
        """Copy the masters into the model's parameters, rounding them to its type."""
        for name, parameter in self.parameters.items():
            if self.masters[name] is not parameter:
                parameter.copy_(self.masters[name])

    def moments(self) -> dict[str, Tensor]:
        """The optimizers' own tensors, as `{moment}.{parameter}`; none before the first step."""
        return {
            f"{moment}.{name}": torch.as_tensor(value)
            for name, master in self.masters.items()
            for moment, value in self._owner(name).state.get(master, {}).items()
        }

    def load_moments(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `moments` gave."""
        for name, master in self.masters.items():
            owner = self._owner(name)
            moments = MOMENTS[type(owner)]
            if all(f"{moment}.{name}" in tensors for moment in moments):
                owner.state[master] = {moment: tensors[f"{moment}.{name}"].clone() for moment in moments}

    def _owner(self, name: str) -> torch.optim.Optimizer:
        return self.optimizers[1 if name in self.matrices else 0]


def is_hidden_matrix(name: str, tensor: Tensor) -> bool:
    """Whether Muon should own a tensor: a matrix or a dense convolution between hidden layers.

    Embeddings, first and last layers, depthwise convolutions and vectors are AdamW's.
    """
    edges = ("embedding", "codebook", "clf", "in_block", "out_block")
    return tensor.ndim in (2, 4) and min(tensor.shape[:2]) > 1 and not any(edge in name for edge in edges)


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised: the update of a matrix is the nearest semi-orthogonal matrix to its momentum.

    A convolution's weight (out, in, height, width) counts as a matrix of one row per output channel.

    Jordan et al. 2024, "Muon: an optimizer for hidden layers"; the scale 0.2 sqrt(max(rows, columns)) of Liu et al.
    2025, "Muon is scalable for LLM training", gives updates the size of AdamW's, so that both share one learning rate.
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
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
    """The learning rate of update `step` (from 0) as a share of `lr`: linear warm-up times the schedule.

    The schedules fall from 1 to 0.01 over the whole run. `progress` in [0, 1] is how much of it is done, by updates.
    """
    warmup = min(1.0, (step + 1) / config.warmup_updates) if config.warmup_updates else 1.0
    decay = {
        "constant": 1.0,
        "linear": 1 - progress,
        "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
    }[config.lr_schedule]
    return warmup * max(decay, 0.01)
