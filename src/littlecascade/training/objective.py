"""The diffusion objective: what a noisy latent is, what the network is asked for, and how much each error counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from littlecascade.diffusion.noise import offset_noise, pyramid_noise
from littlecascade.diffusion.parametrisation import Parametrisation
from littlecascade.diffusion.process import TARGETS, add_noise
from littlecascade.diffusion.schedule import CosineSchedule
from littlecascade.diffusion.weighting import WEIGHTS, LossWeight
from littlecascade.training.config import DiffusionRun
from littlecascade.training.draws import Draws

Network = Callable[[Tensor, Tensor], Tensor]
Wanted = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Objective:
    """`loss(network, x0, draws)` of one batch, for a network called as `network(x, time)`."""

    parametrisation: Parametrisation
    weight: LossWeight
    offset: float = 0.0
    pyramid: bool = False

    def loss(
        self, network: Network, x0: Tensor, draws: Draws, wanted: Wanted, places: Tensor | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """The weighted mean squared error at times spread evenly over [0, 1], and the unweighted one for the metrics.

        x0: (B, C, H, W) float32. wanted: given what the network should say of (x, time), what it is held against.
        places: (B, 1, H, W), how much the error counts at each; alike if not given.
        """
        target, schedule = self.parametrisation.target, self.parametrisation.schedule
        logsnr = schedule.logsnr(draws.spread()).to(x0.device)
        noise = self._noise(x0, draws)
        x, time = add_noise(x0, noise, logsnr), target.time(logsnr, schedule)
        goal = wanted(target.of(x0, noise, logsnr), x, time)
        error = _mean((network(x, time).float() - goal).square(), places)
        value = (error * self.weight(logsnr)).mean()
        self.weight.update(logsnr, error.detach())
        return value, {"error": float(error.detach().mean())}

    def _noise(self, x0: Tensor, draws: Draws) -> Tensor:
        noise = draws.normal(*x0.shape[1:]).to(x0.device)
        if self.pyramid:
            noise = pyramid_noise(noise, generators=draws.generators)
        if self.offset:
            noise = offset_noise(noise, self.offset, generators=draws.generators)
        return noise


def _mean(values: Tensor, places: Tensor | None) -> Tensor:
    """(B,): the mean of values (B, C, H, W) of each sample, weighted by `places` (B, 1, H, W); 0 where these are 0."""
    if places is None:
        return values.flatten(1).mean(1)
    weights = places.to(values).expand_as(values).flatten(1)
    return (values.flatten(1) * weights).sum(1) / weights.sum(1).clamp(min=torch.finfo(values.dtype).tiny)


def make_objective(config: DiffusionRun, device: torch.device) -> Objective:
    """The objective that a run's configuration describes, its weight on a device."""
    target = TARGETS["edm" if config.edm_objective else config.objective]
    weight = WEIGHTS["adaptive" if config.adaptive_loss_weight else config.loss_weight](target).to(device)
    parametrisation = Parametrisation(target, CosineSchedule(shift=config.shift))
    return Objective(parametrisation, weight, config.offset_noise, config.pyramid_noise)
