"""The diffusion objective: what a noisy latent is, what the network is asked for, and how much each error counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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

    def loss(self, network: Network, x0: Tensor, draws: Draws, wanted: Wanted) -> tuple[Tensor, dict[str, float]]:
        """The weighted mean squared error at times spread evenly over [0, 1], and the unweighted one for the metrics.

        x0: (B, C, H, W) float32. wanted: given what the network should say of (x, time), what it is held against.
        """
        target, schedule = self.parametrisation.target, self.parametrisation.schedule
        logsnr = schedule.logsnr(draws.spread()).to(x0.device)
        noise = self._noise(x0, draws)
        x, time = add_noise(x0, noise, logsnr), target.time(logsnr, schedule)
        goal = wanted(target.of(x0, noise, logsnr), x, time)
        error = (network(x, time).float() - goal).square().flatten(1).mean(1)
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


def make_objective(config: DiffusionRun, *, pyramid: bool = False) -> Objective:
    """The objective that a run's configuration describes."""
    target = TARGETS["edm" if config.edm_objective else config.objective]
    weight = WEIGHTS["adaptive" if config.adaptive_loss_weight else config.loss_weight](target)
    parametrisation = Parametrisation(target, CosineSchedule(shift=config.shift))
    return Objective(parametrisation, weight, config.offset_noise, pyramid)
