"""Samplers: generator functions that carry x from noise to data, one call of `denoise` per step.

All of them solve the reverse process of `x = alpha x0 + sigma noise` over `lambda = logSNR / 2`, with x0 held constant
or extrapolated within a step, which integrates the linear part exactly (Lu et al. 2022, "DPM-Solver++").
Coefficients are Python floats, in double precision; x stays on its device in float32 (float64 if it comes so).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from littlecascade.diffusion.guidance import Denoise
from littlecascade.diffusion.noise import image_noise


class Step(NamedTuple):
    """What a sampler yields: x `(B, C, H, W)` after the step, and the network's x0 for the x before it."""

    x: Tensor
    x0: Tensor


class Sampler(Protocol):
    """A generator function over the n steps between n + 1 noise levels."""

    def __call__(
        self, denoise: Denoise, x: Tensor, logsnr: Tensor, *, generators: Sequence[torch.Generator] = ()
    ) -> Iterator[Step]:
        """Yield n steps.

        Args:
            denoise: `(x, logsnr ()) -> x0`, see `guidance.make_denoiser`.
            x: `(B, C, H, W)` at the first level: noise, or `add_noise` of an image to start from.
            logsnr: `(n + 1,)`, rising; infinite at the end to land on x0, as `CosineSchedule.steps` gives it.
            generators: one per image, for the samplers that draw noise (`ddpm`, `lcm`, `dpmpp_2m_sde`).
        """
        ...


def ddpm(denoise: Denoise, x: Tensor, logsnr: Tensor, *, generators: Sequence[torch.Generator] = ()) -> Iterator[Step]:
    """Ancestral sampling from the posterior q(x_s | x_t, x0) (Ho et al. 2020, eq. 6 and 7): the official sampler."""
    return _exponential(denoise, x, logsnr, generators, stochastic=True, second_order=False)


def ddim(denoise: Denoise, x: Tensor, logsnr: Tensor, *, generators: Sequence[torch.Generator] = ()) -> Iterator[Step]:
    """The deterministic first-order sampler (Song et al. 2021, eq. 12 with sigma 0)."""
    return _exponential(denoise, x, logsnr, generators, stochastic=False, second_order=False)


def dpmpp_2m(
    denoise: Denoise, x: Tensor, logsnr: Tensor, *, generators: Sequence[torch.Generator] = ()
) -> Iterator[Step]:
    """DPM-Solver++(2M), deterministic, second order (Lu et al. 2022, algorithm 2)."""
    return _exponential(denoise, x, logsnr, generators, stochastic=False, second_order=True)


def dpmpp_2m_sde(
    denoise: Denoise, x: Tensor, logsnr: Tensor, *, generators: Sequence[torch.Generator] = ()
) -> Iterator[Step]:
    """SDE-DPM-Solver++(2M): `ddpm` with x0 extrapolated as in `dpmpp_2m` (Lu et al. 2022)."""
    return _exponential(denoise, x, logsnr, generators, stochastic=True, second_order=True)


def lcm(denoise: Denoise, x: Tensor, logsnr: Tensor, *, generators: Sequence[torch.Generator] = ()) -> Iterator[Step]:
    """Multistep consistency sampling: jump to x0, add fresh noise of the next level (Song et al. 2023, algorithm 1).

    For networks distilled to consistency; others come out washed out.
    """
    for i, (_, target) in enumerate(_levels(logsnr)):
        x0 = denoise(x, logsnr[i])
        x = _noised(target.alpha * x0, target.sigma, generators)
        yield Step(x, x0)


def unipc(denoise: Denoise, x: Tensor, logsnr: Tensor, *, generators: Sequence[torch.Generator] = ()) -> Iterator[Step]:
    """UniPC of order 2 (Zhao et al. 2023, with their B2): predictor and corrector.

    The prediction for a level is `dpmpp_2m`'s. Once the network has seen it, the corrector takes the step again with
    what the network said at its end, so that x gains an order of accuracy for no further call.
    """
    step: _History | None = None
    for i, (source, target) in enumerate(_levels(logsnr)):
        x0 = denoise(x, logsnr[i])
        if step is not None:
            x = _correct(step, source, x0)
        previous = None if step is None else (step.level.half_logsnr, step.x0)
        step = _History(source, x, x0, previous)
        x = _advance(x, _extrapolate(x0, previous, source, target), source, target)
        yield Step(x, x0)


SAMPLERS: dict[str, Sampler] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "lcm": lcm,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "unipc": unipc,
}


class _Level(NamedTuple):
    half_logsnr: float
    alpha: float
    sigma: float


class _History(NamedTuple):
    """A step of `unipc` that awaits its correction: where it began, with which x and x0, and the x0 before that."""

    level: _Level
    x: Tensor
    x0: Tensor
    previous: tuple[float, Tensor] | None


def _levels(logsnr: Tensor) -> Iterator[tuple[_Level, _Level]]:
    """The two ends of every step. An infinite logSNR gives alpha 1 and sigma 0."""
    values = [float(value) for value in logsnr.double()]
    levels = [_Level(v / 2, (1 + math.exp(-v)) ** -0.5, (1 + math.exp(v)) ** -0.5) for v in values]
    return pairwise(levels)


def _exponential(
    denoise: Denoise,
    x: Tensor,
    logsnr: Tensor,
    generators: Sequence[torch.Generator],
    *,
    stochastic: bool,
    second_order: bool,
) -> Iterator[Step]:
    previous: tuple[float, Tensor] | None = None
    for i, (source, target) in enumerate(_levels(logsnr)):
        x0 = denoise(x, logsnr[i])
        estimate = _extrapolate(x0, previous, source, target) if second_order else x0
        x = _advance(x, estimate, source, target, stochastic=stochastic)
        if stochastic:
            h = target.half_logsnr - source.half_logsnr
            x = _noised(x, target.sigma * math.sqrt(-math.expm1(-2 * h)), generators)
        previous = source.half_logsnr, x0
        yield Step(x, x0)


def _advance(x: Tensor, x0: Tensor, source: _Level, target: _Level, *, stochastic: bool = False) -> Tensor:
    """x at `target` if x0 does not change over the step; of a stochastic step its mean, the posterior's."""
    h = target.half_logsnr - source.half_logsnr
    keep = target.sigma / source.sigma
    if stochastic:
        return keep * math.exp(-h) * x - target.alpha * math.expm1(-2 * h) * x0
    return keep * x - target.alpha * math.expm1(-h) * x0


def _noised(x: Tensor, amount: float, generators: Sequence[torch.Generator]) -> Tensor:
    """x with fresh noise of each image's own; the step that lands on x0 draws none."""
    if amount == 0:
        return x
    if len(generators) != len(x):
        raise ValueError(f"A batch of {len(x)} images needs as many generators, not {len(generators)}.")
    return x + amount * image_noise(x.shape[1:], generators, like=x)


def _extrapolate(x0: Tensor, previous: tuple[float, Tensor] | None, source: _Level, target: _Level) -> Tensor:
    """x0 at the middle of the step (in lambda) on the line through this x0 and the previous one."""
    if previous is None or not _reachable(previous[0], source, target):
        return x0
    ratio = (target.half_logsnr - source.half_logsnr) / (source.half_logsnr - previous[0])
    return x0 + ratio / 2 * (x0 - previous[1])


def _correct(step: _History, target: _Level, x0: Tensor) -> Tensor:
    """The step taken again, given the x0 that the network saw at its end: UniC (Zhao et al. 2023, algorithm 1)."""
    at_end = x0 - step.x0
    if step.previous is None or not _reachable(step.previous[0], step.level, target):
        return _advance(step.x, step.x0 + at_end / 2, step.level, target)
    h = target.half_logsnr - step.level.half_logsnr
    r = (step.previous[0] - step.level.half_logsnr) / h
    before = (step.previous[1] - step.x0) / r
    # Their order conditions for differences at r and 1: weights p and q with p + q = b1 and r p + q = b2.
    phi = math.expm1(-h)
    b1 = -1 / h - 1 / phi
    b2 = -2 * (b1 / h + 0.5 / phi)
    p = (b1 - b2) / (1 - r)
    return _advance(step.x, step.x0 + p * before + (b1 - p) * at_end, step.level, target)


def _reachable(previous: float, source: _Level, target: _Level) -> bool:
    """Whether the last step is long enough to extrapolate this one from.

    Not on the flat ends of a clamped schedule, where steps have no length, nor to an infinite logSNR. A step much
    longer than the last would multiply the network's rounding error.
    """
    return 0 < target.half_logsnr - source.half_logsnr < 100 * (source.half_logsnr - previous)
