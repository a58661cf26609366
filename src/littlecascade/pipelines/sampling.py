"""Drawing latents with one network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from littlecascade.diffusion.guidance import make_denoiser
from littlecascade.diffusion.parametrisation import Parametrisation
from littlecascade.diffusion.samplers import SAMPLERS
from littlecascade.errors import InputError, suggest

OnStep = Callable[[int, int, Tensor], None]
"""Called with the number of the step (from 1), the number of steps, and the current estimate of x0 (B, C, H, W)."""


@dataclass(frozen=True)
class Settings:
    """How to sample: a name in `SAMPLERS`, the number of steps, the guidance scale and its rescale."""

    sampler: str = "ddpm"
    steps: int = 20
    guidance: float = 1.0
    rescale: float = 0.7

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            names = ", ".join(SAMPLERS)
            raise InputError(f"Unknown sampler {self.sampler!r}; there are {names}.{suggest(self.sampler, SAMPLERS)}")
        if self.steps < 1:
            raise InputError(f"{self.steps} steps: at least 1 is needed.")


@torch.no_grad()
def draw(
    network: nn.Module,
    shape: Sequence[int],
    conditions: Mapping[str, Tensor],
    unconditional: Mapping[str, Tensor] | None,
    parametrisation: Parametrisation,
    settings: Settings,
    seeds: Sequence[int],
    on_step: OnStep | None = None,
) -> Tensor:
    """Latents (B, C, H, W) float32 of `shape`, each from its own seed, so that none depends on its neighbours.

    conditions, unconditional: keyword arguments of the network; without the latter there is no guidance.
    The noise is drawn on the CPU, whatever the device of the conditions.
    """
    device = next(iter(conditions.values())).device
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    denoise = make_denoiser(
        network,
        conditions,
        unconditional,
        target=parametrisation.target,
        schedule=parametrisation.schedule,
        scale=settings.guidance,
        rescale=settings.rescale,
    )
    x = torch.stack([torch.randn(tuple(shape[1:]), generator=generator) for generator in generators]).to(device)
    levels = parametrisation.schedule.steps(settings.steps)
    for number, step in enumerate(SAMPLERS[settings.sampler](denoise, x, levels, generators=generators), start=1):
        x = step.x
        if on_step is not None:
            on_step(number, settings.steps, step.x0)
    return x
