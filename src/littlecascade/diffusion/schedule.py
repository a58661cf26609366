"""The continuous cosine noise schedule, as a map between the trajectory's time `t` and logSNR.

Time runs from 0 (data) to 1 (noise). logSNR is `log(alpha^2 / sigma^2)` of the variance-preserving process
`x = alpha x0 + sigma noise`: large for data, small for noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from littlecascade.errors import InputError


@dataclass(frozen=True)
class CosineSchedule:
    """`alpha^2(t) = cos^2((t + s) / (1 + s) pi/2) / cos^2(s / (1 + s) pi/2)` (Nichol and Dhariwal 2021, eq. 17).

    Attributes:
        s: offset that keeps the noise near t = 0 from vanishing.
        clamp: the least and the greatest `alpha^2`; they bound logSNR, shifted or not, to +-9.21 as they stand.
        shift: adds `2 log(1 / shift)` to logSNR (Hoogeboom et al. 2023, "simple diffusion"): above 1 the
            same t is noisier, which suits larger pictures.

    >>> schedule = CosineSchedule()
    >>> round(schedule.logsnr(torch.tensor(0.5)).item(), 4)
    -0.0246
    >>> noisier = CosineSchedule(shift=2.0)
    >>> round(noisier.logsnr(torch.tensor(0.5)).item() - schedule.logsnr(torch.tensor(0.5)).item(), 4)
    -1.3863
    """

    s: float = 0.008
    clamp: tuple[float, float] = (1e-4, 0.9999)
    shift: float = 1.0

    def __post_init__(self) -> None:
        low, high = self.clamp
        if self.s <= 0 or self.shift <= 0 or not 0 < low < high < 1:
            raise InputError(
                f"A cosine schedule needs s > 0, shift > 0 and 0 < clamp[0] < clamp[1] < 1, "
                f"but was given s={self.s}, shift={self.shift}, clamp={self.clamp}."
            )

    @property
    def limits(self) -> tuple[float, float]:
        """The least and the greatest logSNR: the logits of `clamp`."""
        low, high = self.clamp
        return math.log(low / (1 - low)), math.log(high / (1 - high))

    def logsnr(self, t: Tensor) -> Tensor:
        """logSNR at times `t` in [0, 1], of any shape; float32, or float64 where t is."""
        t = t.to(torch.promote_types(t.dtype, torch.float32)).clamp(0, 1)
        # With h = pi/2 / (1 + s): cos^2(h(t+s)) = sin^2(h(1-t)), cos^2(hs) - cos^2(h(t+s)) = sin(ht) sin(h(t+2s)).
        # Neither difference cancels in float32, as 1 - alpha^2 would near t = 0.
        h = self._quarter
        unshifted = 2 * (h * (1 - t)).sin().log() - (h * t).sin().log() - (h * (t + 2 * self.s)).sin().log()
        return (unshifted.clamp(*self.limits) - 2 * math.log(self.shift)).clamp(*self.limits)

    def time(self, logsnr: Tensor) -> Tensor:
        """The time in [0, 1] at which the *unshifted* schedule has this logSNR: what the networks are conditioned on.

        It depends on the noise in the input alone, so a network that was trained with one shift can be sampled with
        another. Because logSNR is clamped, it spans 0.0022 to 0.9936 as the defaults stand.
        """
        logsnr = logsnr.to(torch.promote_types(logsnr.dtype, torch.float32))
        start = self._quarter * self.s
        data, noise = logsnr.sigmoid(), (-logsnr).sigmoid()
        angle = torch.atan2((noise + data * math.sin(start) ** 2).sqrt(), data.sqrt() * math.cos(start))
        return (angle / self._quarter - self.s).clamp(0, 1)

    def position(self, logsnr: Tensor) -> Tensor:
        """The time in [0, 1] at which *this* schedule, its shift included, has this logSNR: the inverse of `logsnr`."""
        return self.time(logsnr + 2 * math.log(self.shift))

    def steps(self, n: int, start: float = 1.0, end: float = 0.0) -> Tensor:
        """logSNR `(n + 1,)` at n + 1 evenly spaced times from `start` down to `end`, for a sampler of n steps.

        Time 0 is data: there logSNR is infinite, so that a sampler's last step lands on its x0 and the little noise
        that `clamp` leaves in (1e-4 of the variance) stays out of the picture.

        >>> [round(value, 2) for value in CosineSchedule().steps(2).tolist()]
        [-9.21, -0.02, inf]
        """
        if n < 1:
            raise InputError(f"A sampler takes at least 1 step, not {n}.")
        if not 0 <= end < start <= 1:
            raise InputError(f"Sampling runs from a start down to an end within [0, 1], not from {start} to {end}.")
        logsnr = self.logsnr(torch.linspace(start, end, n + 1, dtype=torch.float64))
        if end == 0:
            logsnr[-1] = math.inf
        return logsnr.float()

    @property
    def _quarter(self) -> float:
        """A quarter turn in units of `t + s`."""
        return math.pi / 2 / (1 + self.s)
