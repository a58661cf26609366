"""How one weight is updated from its gradient: the rules that need to know nothing of the other weights."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.adamw import adamw

State = dict[str, Tensor]
"""What a rule keeps of a weight from update to update, by names that checkpoints bear, too."""


class Rule(ABC):
    """`update(weight, gradient, state, lr, decay)` changes a float32 weight and its state in place.

    decay: how much of the weight is taken off, times lr (Loshchilov and Hutter 2019).
    """

    @abstractmethod
    def start(self, weight: Tensor) -> State:
        """The state before the first update."""

    @abstractmethod
    def update(self, weight: Tensor, gradient: Tensor, state: State, lr: float, decay: float) -> None: ...


@dataclass(frozen=True)
class AdamW(Rule):
    """Loshchilov and Hutter 2019, by torch's fused kernel. Eight bytes of state a value."""

    betas: tuple[float, float]

    def start(self, weight: Tensor) -> State:
        moments = {name: torch.zeros_like(weight) for name in ("exp_avg", "exp_avg_sq")}
        return {"step": torch.zeros((), device=weight.device), **moments}

    def update(self, weight: Tensor, gradient: Tensor, state: State, lr: float, decay: float) -> None:
        lists = ([tensor] for tensor in (weight, gradient, state["exp_avg"], state["exp_avg_sq"]))
        adamw(
            *lists,
            max_exp_avg_sqs=[],
            state_steps=[state["step"]],
            fused=True,
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=lr,
            weight_decay=decay,
            eps=1e-8,
            maximize=False,
        )


@dataclass(frozen=True)
class Adafactor(Rule):
    """Shazeer and Stern 2018, algorithm 4, without momentum and with the learning rate as given.

    Of a matrix's second moments only the means of rows and of columns are kept; a convolution's weight (out, in,
    height, width) counts as a matrix of one row per output channel. The decay of second moments is 1 - t**-0.8 (7.2),
    and an update whose root mean square exceeds 1 is divided by it (section 6).
    """

    def start(self, weight: Tensor) -> State:
        step = torch.zeros(())
        if not _is_matrix(weight):
            return {"step": step, "exp_avg_sq": torch.zeros_like(weight)}
        rows, columns = weight.flatten(1).shape
        return {"step": step, "row": weight.new_zeros(rows), "column": weight.new_zeros(columns)}

    def update(self, weight: Tensor, gradient: Tensor, state: State, lr: float, decay: float) -> None:
        state["step"] += 1
        share = float(state["step"]) ** -0.8
        squares = gradient.square().add_(1e-30)
        if _is_matrix(weight):
            row, column = state["row"], state["column"]
            squares = squares.flatten(1)
            row.lerp_(squares.mean(1), share)
            column.lerp_(squares.mean(0), share)
            update = gradient.flatten(1) * (row / row.mean()).rsqrt()[:, None] * column.rsqrt()
        else:
            update = gradient * state["exp_avg_sq"].lerp_(squares, share).rsqrt()
        size = update.square().mean().sqrt()
        update /= size.clamp(min=1.0)
        weight.mul_(1 - lr * decay).sub_(update.view_as(weight), alpha=lr)


def _is_matrix(weight: Tensor) -> bool:
    return weight.ndim > 1 and min(weight.flatten(1).shape) > 1


@dataclass(frozen=True)
class Muon(Rule):
    """Momentum, orthogonalised: the update of a matrix is the nearest semi-orthogonal matrix to its momentum.

    A convolution's weight (out, in, height, width) counts as a matrix of one row per output channel.

    Jordan et al. 2024, "Muon: an optimizer for hidden layers"; the scale 0.2 sqrt(max(rows, columns)) of Liu et al.
    2025, "Muon is scalable for LLM training", gives updates the size of AdamW's, so that both share one learning rate.
    """

    momentum: float = 0.95

    def start(self, weight: Tensor) -> State:
        return {"momentum_buffer": torch.zeros_like(weight)}

    def update(self, weight: Tensor, gradient: Tensor, state: State, lr: float, decay: float) -> None:
        momentum = state["momentum_buffer"].lerp_(gradient, 1 - self.momentum)
        update = orthogonalise(gradient.lerp(momentum, self.momentum).flatten(1))
        size = -0.2 * lr * math.sqrt(max(update.shape))
        weight.mul_(1 - lr * decay).add_(update.view_as(weight), alpha=size)


def is_hidden_matrix(name: str, tensor: Tensor) -> bool:
    """Whether Muon should own a tensor: a matrix or a dense convolution between hidden layers.

    Embeddings, first and last layers, depthwise convolutions and vectors are AdamW's.
    """
    edges = ("embedding", "codebook", "clf", "in_block", "out_block")
    return tensor.ndim in (2, 4) and min(tensor.shape[:2]) > 1 and not any(edge in name for edge in edges)


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
