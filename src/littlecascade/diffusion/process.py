"""The variance-preserving process `x = alpha x0 + sigma noise`, and what a network may be asked to predict of it.

`logsnr` is a scalar `()` or one value per image `(B,)`. Everything is computed in float32, whatever the network's
dtype, or in float64 where the tensors are float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from littlecascade.diffusion.schedule import CosineSchedule


def alpha_sigma(logsnr: Tensor) -> tuple[Tensor, Tensor]:
    """`(alpha, sigma)` with `alpha^2 + sigma^2 = 1` and `alpha^2 / sigma^2 = exp(logsnr)`, of logsnr's shape.

    >>> [round(float(value), 4) for value in alpha_sigma(torch.tensor(0.0))]
    [0.7071, 0.7071]
    """
    return logsnr.sigmoid().sqrt(), (-logsnr).sigmoid().sqrt()


def add_noise(x0: Tensor, noise: Tensor, logsnr: Tensor) -> Tensor:
    """`alpha x0 + sigma noise`, `(B, C, H, W)` in float32."""
    x0 = _at_least_float32(x0)
    alpha, sigma = _levels(logsnr, x0)
    return alpha * x0 + sigma * noise


@dataclass(frozen=True)
class Target:
    """A parametrisation: what the network predicts, and the number by which it is told the noise level.

    A target is a mixture `p = a x0 + b noise`. With `x = alpha x0 + sigma noise` that is a linear system of two
    equations, so that x0 and the noise follow from x and p with the determinant `alpha b - sigma a`.

    Attributes:
        name: its key in `TARGETS`.
        mixture: `(alpha, sigma) -> (a, b)`.
        conditioning: `(schedule, logsnr) -> time`, the network's `time`.
    """

    name: str
    mixture: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    conditioning: Callable[[CosineSchedule, Tensor], Tensor]

    def of(self, x0: Tensor, noise: Tensor, logsnr: Tensor) -> Tensor:
        """What the network should predict, `(B, C, H, W)`."""
        x0 = _at_least_float32(x0)
        a, b = self.mixture(*_levels(logsnr, x0))
        return a * x0 + b * noise

    def to_x0(self, prediction: Tensor, x: Tensor, logsnr: Tensor) -> Tensor:
        """x0 from a prediction at x. From epsilon an error grows by sigma / alpha: 100 at t = 1."""
        prediction, x = _at_least_float32(prediction), _at_least_float32(x)
        alpha, sigma = _levels(logsnr, x)
        a, b = self.mixture(alpha, sigma)
        return (b * x - sigma * prediction) / (alpha * b - sigma * a)

    def to_noise(self, prediction: Tensor, x: Tensor, logsnr: Tensor) -> Tensor:
        """The noise from a prediction at x. From x0 an error grows by alpha / sigma: 100 at t = 0."""
        prediction, x = _at_least_float32(prediction), _at_least_float32(x)
        alpha, sigma = _levels(logsnr, x)
        a, b = self.mixture(alpha, sigma)
        return (alpha * prediction - a * x) / (alpha * b - sigma * a)

    def time(self, logsnr: Tensor, schedule: CosineSchedule) -> Tensor:
        """The network's `time` at these noise levels, of logsnr's shape."""
        return self.conditioning(schedule, logsnr)

    def x0_share(self, logsnr: Tensor) -> Tensor:
        """The squared error of x0 per squared error of the prediction: 1 / SNR for epsilon, 1 / (SNR + 1) for v."""
        alpha, sigma = alpha_sigma(logsnr)
        a, b = self.mixture(alpha, sigma)
        return (sigma / (alpha * b - sigma * a)) ** 2


def edm_time(schedule: CosineSchedule, logsnr: Tensor) -> Tensor:
    """EDM's noise conditioning `log(sigma / alpha) / 4 = -logsnr / 8` (Karras et al. 2022, table 1); no schedule in it.

    >>> edm_time(CosineSchedule(), torch.tensor([-8.0, 0.0, 8.0])).tolist()
    [1.0, -0.0, -1.0]
    """
    return -logsnr / 8


def _epsilon(alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(alpha), torch.ones_like(sigma)


def _x0(alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ones_like(alpha), torch.zeros_like(sigma)


def _v(alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    return -sigma, alpha


EPSILON = Target("epsilon", _epsilon, CosineSchedule.time)
"""The noise (Ho et al. 2020): what the official networks predict."""

V = Target("v", _v, CosineSchedule.time)
"""`alpha noise - sigma x0` (Salimans and Ho 2022, section 4): sound at both ends of the schedule."""

X0 = Target("x0", _x0, CosineSchedule.time)
"""The data."""

EDM = Target("edm", _v, edm_time)
"""The official `edm_objective`: v, conditioned on `-logsnr / 8`.

With data of unit variance EDM's preconditioned denoiser (Karras et al. 2022, eq. 7) is
`D = c_skip x/alpha + c_out F(c_in x/alpha)`, where `c_skip = alpha^2`, `c_out = sigma` and `c_in = alpha`, hence
`D = alpha x + sigma F(x)`: v prediction up to the sign, `F = -v`. The sign here is v's, as in the official code.
"""

TARGETS = {target.name: target for target in (EPSILON, V, X0, EDM)}


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _levels(logsnr: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma on `like`'s device and in its dtype, shaped to multiply `(B, C, H, W)`."""
    alpha, sigma = alpha_sigma(logsnr)
    shape = logsnr.shape + (1,) * (like.ndim - 1) if logsnr.ndim else ()
    return alpha.to(like).view(shape), sigma.to(like).view(shape)
