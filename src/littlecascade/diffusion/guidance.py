"""Classifier-free guidance: from a network and its conditions to a function that denoises."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from littlecascade.diffusion.process import EPSILON, Target
from littlecascade.diffusion.schedule import CosineSchedule
from littlecascade.errors import InputError, suggest

Denoise = Callable[[Tensor, Tensor], Tensor]
"""`(x (B, C, H, W), logsnr ()) -> x0 (B, C, H, W)` in float32."""

ScaleSchedule = Callable[[float], float]
"""The guidance scale at time t, which falls from 1 (noise) to 0 (data)."""


class Network(Protocol):
    """What predicts: a Stage B or C, or anything that is called alike."""

    def __call__(self, x: Tensor, time: Tensor, /, **conditions: Tensor) -> Tensor:
        """The prediction `(B, C, H, W)` for x at `time` `(B,)`."""
        ...


def make_denoiser(
    network: Network,
    cond: Mapping[str, Tensor],
    uncond: Mapping[str, Tensor] | None,
    *,
    target: Target = EPSILON,
    schedule: CosineSchedule = CosineSchedule(),
    scale: float | ScaleSchedule | None = None,
    rescale: float = 0.7,
    interval: tuple[float, float] = (0.0, 1.0),
    dtype: torch.dtype = torch.float32,
) -> Denoise:
    """A function `(x, logsnr) -> x0` for the samplers, with guidance.

    Where guidance is at work, the network runs once on a batch of twice the size. At a scale of 1, outside the interval
    and where `scale` or `uncond` is None, it runs on `cond` alone.

    Args:
        network: called as `network(x, time, **conditions)`, x and the answer in `dtype`, time in float32.
        cond: the conditions by name, each `(B, ...)`; `(1, ...)` serves the whole batch.
        uncond: the same names for the unconditional or negative prediction; a name in one only is an error.
        target: what the network predicts.
        schedule: the schedule of the trajectory; it gives the network's time and the t of `scale` and `interval`.
        scale: 1 + the weight of guidance (Ho and Salimans 2022, with w + 1 for their w), or a function of t.
        rescale: share of the prediction that is brought back to the standard deviation of the conditional one.
        interval: the times, ends included, between which guidance works (Kynkaanniemi et al. 2024); t = 1 is noise.
        dtype: the dtype that the network computes in.

    Raises:
        InputError: conditions that do not pair up, an interval outside [0, 1].
    """
    low, high = interval
    if not 0 <= low <= high <= 1:
        raise InputError(f"A guidance interval is two times in order within [0, 1], not {interval}.")
    if uncond is not None:
        _check_names(cond, uncond)

    def scale_at(logsnr: Tensor) -> float:
        if scale is None or uncond is None:
            return 1.0
        t = min(schedule.position(logsnr).item(), 1.0)
        if not low <= t <= high:
            return 1.0
        return scale(t) if callable(scale) else scale

    def predict(x: Tensor, logsnr: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        time = target.time(logsnr.float(), schedule).to(x.device).expand(len(x))
        return network(x.to(dtype), time, **conditions).to(x.dtype)

    def denoise(x: Tensor, logsnr: Tensor) -> Tensor:
        strength = scale_at(logsnr)
        if uncond is None or strength == 1:
            prediction = predict(x, logsnr, {name: _fit(name, value, len(x)) for name, value in cond.items()})
        else:
            both = {name: _pair(name, value, uncond[name], len(x)) for name, value in cond.items()}
            prediction = predict(torch.cat([x, x]), logsnr, both)
            prediction = guide(prediction[: len(x)], prediction[len(x) :], strength, rescale)
        return target.to_x0(prediction, x, logsnr)

    return denoise


def guide(cond: Tensor, uncond: Tensor, scale: float, rescale: float = 0.0) -> Tensor:
    """`uncond + scale (cond - uncond)`, `(B, C, H, W)`, its contrast then partly brought back to that of `cond`.

    Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps are Flawed", eq. 15 and 16, with `rescale` for
    their phi. The standard deviation is each image's own, so that the images of a batch do not influence each other.
    """
    guided = uncond.lerp(cond, scale)
    axes = tuple(range(1, cond.ndim))
    ratio = cond.std(axes, keepdim=True) / guided.std(axes, keepdim=True).clamp(min=torch.finfo(guided.dtype).tiny)
    return guided * (1 + rescale * (ratio - 1))


def linear_scale(noise: float, data: float) -> ScaleSchedule:
    """A scale that goes straight from `noise` at t = 1 to `data` at t = 0.

    >>> linear_scale(6.0, 2.0)(0.25)
    3.0
    """
    return lambda t: data + (noise - data) * t


def cosine_scale(noise: float, data: float) -> ScaleSchedule:
    """A scale from `noise` at t = 1 to `data` at t = 0 along half a cosine wave, level at both ends.

    >>> cosine_scale(6.0, 2.0)(0.5)
    4.0
    """
    return lambda t: data + (noise - data) * (1 - math.cos(math.pi * t)) / 2


def stepped_scale(scales: Sequence[float]) -> ScaleSchedule:
    """Each of n scales for one n-th of the time, from noise to data: step i of n of a full trajectory gets scales[i].

    >>> [stepped_scale([5.0, 4.0, 1.5])(t) for t in (1.0, 2 / 3, 1 / 3, 0.0)]
    [5.0, 4.0, 1.5, 1.5]
    """
    if not scales:
        raise InputError("A schedule of guidance scales needs at least one scale.")
    # A step's time is known to about 1e-6; the margin keeps it from falling into the part before its own.
    return lambda t: scales[min(int((1 - t) * len(scales) + 1e-3), len(scales) - 1)]


def _check_names(cond: Mapping[str, Tensor], uncond: Mapping[str, Tensor]) -> None:
    for name in sorted(cond.keys() ^ uncond.keys()):
        have, lack = ("conditions", "unconditional conditions")[:: 1 if name in cond else -1]
        others = cond.keys() ^ uncond.keys() ^ {name}
        raise InputError(f"{name!r} is among the {have} but not among the {lack}.{suggest(name, others)}")


def _fit(name: str, value: Tensor, batch: int) -> Tensor:
    if len(value) not in (1, batch):
        raise InputError(f"Condition {name!r} has {len(value)} rows for a batch of {batch}: give 1 or {batch}.")
    return value.expand(batch, *value.shape[1:])


def _pair(name: str, cond: Tensor, uncond: Tensor, batch: int) -> Tensor:
    if cond.shape[1:] != uncond.shape[1:]:
        shapes = f"{tuple(cond.shape[1:])} per image with the prompt and {tuple(uncond.shape[1:])} without"
        raise InputError(f"Condition {name!r} is {shapes}: both run in one batch and must have the same shape.")
    return torch.cat([_fit(name, cond, batch), _fit(name, uncond, batch)])
