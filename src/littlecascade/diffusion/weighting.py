"""Loss weights: how much the loss of a sample counts at its noise level.

The loss to weight is each sample's mean squared error, `(B,)`, against the target that the network predicts.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from littlecascade.diffusion.process import Target


class LossWeight(nn.Module):
    """A weight `(B,)` per logSNR `(B,)`. Its state, where it has one, is tensors in its `state_dict`."""

    def forward(self, logsnr: Tensor) -> Tensor:
        """The weights at these noise levels."""
        raise NotImplementedError

    def update(self, logsnr: Tensor, loss: Tensor) -> None:
        """Learn from the unweighted losses `(B,)` of a step; a weight without state does nothing."""


class Uniform(LossWeight):
    """1 at every noise level: the choice for v, whose error is of one size at all of them."""

    def forward(self, logsnr: Tensor) -> Tensor:
        return torch.ones_like(logsnr)


class P2(LossWeight):
    """`(k + SNR)^-gamma` (Choi et al. 2022, for the loss of epsilon): less weight where there is little noise."""

    def __init__(self, k: float = 1.0, gamma: float = 1.0) -> None:
        super().__init__()
        self.k, self.gamma = k, gamma

    def forward(self, logsnr: Tensor) -> Tensor:
        return (self.k + logsnr.exp()) ** -self.gamma


class MinSNR(LossWeight):
    """`min(SNR, limit)` on the loss of x0 (Hang et al. 2023), carried over to the loss of any target.

    For epsilon that is `min(SNR, limit) / SNR`, for v `min(SNR, limit) / (SNR + 1)`.
    """

    def __init__(self, target: Target, limit: float = 5.0) -> None:
        super().__init__()
        self.target, self.limit = target, limit

    def forward(self, logsnr: Tensor) -> Tensor:
        return logsnr.exp().clamp(max=self.limit) * self.target.x0_share(logsnr)


class AdaptiveWeight(LossWeight):
    """1 / (moving average of the loss at this noise level), so that every level counts alike.

    The line of logSNR is cut at `buckets - 1` evenly spaced values from `low` to `high`, ends included; the first and
    last buckets reach to infinity. Averages start at 1. Of several losses that fall into one bucket in one step their
    mean counts; losses that are not finite do not.
    """

    edges: Tensor
    losses: Tensor

    def __init__(
        self,
        buckets: int = 300,
        low: float = -10.0,
        high: float = 10.0,
        decay: float = 0.99,
        weights: tuple[float, float] = (1e-7, 1e7),
    ) -> None:
        super().__init__()
        self.decay, self.weights = decay, weights
        self.register_buffer("edges", torch.linspace(low, high, buckets - 1))
        self.register_buffer("losses", torch.ones(buckets))

    def forward(self, logsnr: Tensor) -> Tensor:
        return (1 / self.losses[self._bucket(logsnr)]).clamp(*self.weights)

    @torch.no_grad()
    def update(self, logsnr: Tensor, loss: Tensor) -> None:
        loss = loss.to(self.losses)
        finite = loss.isfinite()
        index = torch.arange(len(self.losses), device=self.losses.device)
        # A matrix product instead of a scatter: the same sums in the same order every time, on a GPU too.
        member = ((index[:, None] == self._bucket(logsnr)) & finite).to(loss.dtype)
        count = member.sum(dim=1)
        mean = member @ torch.where(finite, loss, 0) / count.clamp(min=1)
        self.losses.copy_(torch.where(count > 0, self.losses.lerp(mean, 1 - self.decay), self.losses))

    def _bucket(self, logsnr: Tensor) -> Tensor:
        return torch.searchsorted(self.edges, logsnr.to(self.edges).contiguous())


WEIGHTS: dict[str, Callable[[Target], LossWeight]] = {
    "uniform": lambda target: Uniform(),
    "p2": lambda target: P2(),
    "min_snr": MinSNR,
    "adaptive": lambda target: AdaptiveWeight(),
}
"""How to make each loss weight for a target."""
